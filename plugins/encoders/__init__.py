"""Built-in encoders: open_clip, transformers (`hf:`) and timm, all through the same hook as a stranger's."""
