"""The forms of a transcript, its tokens and its phones."""
