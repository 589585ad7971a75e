"""Open-vocabulary segmentation by concepts, as CFM (arXiv 2601.13798) does it."""
