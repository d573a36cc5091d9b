"""Engines: prompt embeddings in, token events out."""
