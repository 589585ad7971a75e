"""Everything that can be exchanged: hookspecs, the manager, and every built-in plugin."""
