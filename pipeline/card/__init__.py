"""Dataset cards: what a run, a hand-off or an export says of itself where it is shared."""
