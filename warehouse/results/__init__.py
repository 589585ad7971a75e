"""Results of analyses: the record of each run, its rows, its vectors, and what it was computed from."""
