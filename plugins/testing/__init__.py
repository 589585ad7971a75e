"""For authors of plugins: a small warehouse on disk and a check that an analyzer keeps its contract."""
