"""Built-in encoders: open_clip, transformers (`hf:`), timm, torchvision, the user's own; all through the same hook."""
