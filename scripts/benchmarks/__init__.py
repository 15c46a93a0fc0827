"""What `scripts/benchmark.py` measures, one suite a file."""
