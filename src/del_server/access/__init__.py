"""Who may ask, and how much: tokens, identities, quotas, and files that may change while a server runs.

Knows nothing of gRPC, queries, engines or models; service/guard.py stands at the door.
"""
