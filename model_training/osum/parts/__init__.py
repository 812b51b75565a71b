"""The parts of OSUM: Whisper, the adaptor, the language model, and where published ones lie."""
