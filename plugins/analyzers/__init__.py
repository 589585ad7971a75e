"""The built-in analyses: one module for each, and `plugin`, which registers them."""
