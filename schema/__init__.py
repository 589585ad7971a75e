"""What a warehouse stores: migrations, named queries, Arrow contracts, and the errors every layer raises.

Owns the shape of stored data and nothing that runs. Imports nothing else of glasshouse.
"""
