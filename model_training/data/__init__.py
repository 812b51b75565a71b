"""From an index to batches of features."""
