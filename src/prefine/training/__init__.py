"""Training: token ids, log-probabilities, reference values, the exact step, the loop and its checkpoints."""
