"""Model: loading, batches, training, and reading a clip once."""
