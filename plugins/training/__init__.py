"""Training sparse autoencoders on activations that are streamed from a warehouse's images."""
