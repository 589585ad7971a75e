"""The starter: a rendered world of which everything is known, and small models trained for it.

`world` renders, `models` loads the shipped weights, `evaluate` measures them, and `train` makes them again. It is what
glasshouse works on when nothing else is at hand, and what its analyses are checked against.
"""
