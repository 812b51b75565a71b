"""The starter perception model: clips of a corpus, training, measuring, card."""
