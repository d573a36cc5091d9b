"""Evaluation: what a codec is worth, what it gives away, and what rivals would, on the path that is deployed."""
