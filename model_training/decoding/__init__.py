"""From scores to text: searches, scorers, recognition of whole files."""
