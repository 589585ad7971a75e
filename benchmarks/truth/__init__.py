"""Truth on the starter world: what the analyses find, against what was rendered, with a control beside each figure.

`world` renders one world and extracts it, `rows` turns figures into the table's rows, the other modules measure. The
tests in tests/analyzers/test_truth_*.py bound the same figures.
"""
