"""Activations and vectors computed elsewhere become spaces and embeddings, so that analyses need no encoder."""
