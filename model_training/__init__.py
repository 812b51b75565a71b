"""From shards to an elastic speech-perception model: data, model, training, decoding, evaluation and export."""
