"""Training: token ids, reference values, the exact gradient of a step, the loop, checkpoints."""
