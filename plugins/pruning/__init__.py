"""Pruning: components of a classifier switched off at a hook point, what that does, and how to take it away."""
