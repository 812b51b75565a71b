"""What the model can be asked and what it can answer, as tokens."""
