"""The built-in labelers, one module for each."""
