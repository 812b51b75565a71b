"""What the starter Whisper needs for clips that share a window: windows to learn from, sentences to measure with."""
