"""Training of the starter models from rendered scenes: a CLIP, a Dinov2Model and two sparse autoencoders."""
