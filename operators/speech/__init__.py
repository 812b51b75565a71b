"""Where speech is, and how it is cut into clips."""
