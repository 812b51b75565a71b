"""Error rates, with their tables and intervals."""
