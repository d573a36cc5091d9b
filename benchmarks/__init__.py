"""Measurements of DEL: `python -m benchmarks targets [GROUP...]`."""
