"""Measurements of speed and quality: `python -m benchmarks.throughput`, `.startup`, `.quality`. See README.md."""
