"""From images to shards to finalised spaces and embeddings."""
