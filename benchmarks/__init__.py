"""Speed, memory and size, as ratios against a limit or a peer measured in the same run: `python -m benchmarks`."""
