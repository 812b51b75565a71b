"""From a hand-checked sample to a threshold that keeps labels as good as they must be."""
