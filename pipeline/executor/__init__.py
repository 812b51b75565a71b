"""Runs stages over units: on Ray, or in a plain loop that is the reference."""
