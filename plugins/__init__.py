"""Everything that can be exchanged: hookspecs, the manager, and every built-in plugin."""

import pluggy

hookimpl = pluggy.HookimplMarker("glasshouse")
"""Marks a function as the implementation of a hook of the same name."""
