"""Audit: attempts to refute what a certificate says of a randomiser, from what a server receives of two tokens.

Needs neither a model nor torch. docs/audit.md says what is tried, and what each attempt can't see.
"""
