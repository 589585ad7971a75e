"""Built-in sparse-autoencoder formats: the published ones, glasshouse's own, and `neurons`."""
