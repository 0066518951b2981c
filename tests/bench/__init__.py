"""Benchmarks: each figure beside its floor, measured in turn. `python -m tests.bench --help`."""
