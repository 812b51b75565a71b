"""Several runs side by side, and what changed from each to the next."""
