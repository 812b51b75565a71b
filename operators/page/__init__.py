"""Pages of results: one frame, one look, and charts without a script."""
