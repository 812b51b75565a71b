"""Labels and engines against a truth file."""
