"""Built-in sparse-autoencoder formats: Prisma's, glasshouse's own, and `neurons`."""
