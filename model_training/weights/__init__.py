"""Weights that a training begins from: where they come from, and how they become this model's."""
