"""Evaluation: what a codec is worth, what it gives away, and what its rivals would, on the very path that is deployed."""
