"""Speed, memory and size as ratios against a limit or a peer of the same run, and truth: `python -m benchmarks`."""
