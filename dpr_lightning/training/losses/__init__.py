"""Losses over the embeddings of a batch. Each is an `nn.Module`, so that it may own parameters."""
