"""What a training step needs: losses, optimizers, workers, checkpoints, logs."""
