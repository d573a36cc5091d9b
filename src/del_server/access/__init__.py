"""Who may ask, and how much: certificates, tokens, identities and quotas.

watched.py follows a file that changes, tls.py makes gRPC's credentials of certificates, the rest is plain data. Knows
nothing of queries, engines or models.
"""
