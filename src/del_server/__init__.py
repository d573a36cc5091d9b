"""The server: segments in, embeddings through a frozen language model, tokens out."""
