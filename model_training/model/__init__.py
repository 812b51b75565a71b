"""The Conformer, its decoder and its elastic experts."""
