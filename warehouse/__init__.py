"""Whoever owns stored state: opening, migrating, intake, extraction, the SQL surface and reading.

Encoders, sparse autoencoders and sources are handed in; nothing here imports `glasshouse.plugins`.
"""
