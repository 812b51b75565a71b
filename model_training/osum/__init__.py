"""OSUM: a Whisper encoder, an adaptor and a language model with LoRA that answer questions about speech."""
