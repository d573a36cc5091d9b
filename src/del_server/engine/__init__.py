"""Engines: prompt embeddings in; token events or likelihoods out."""
