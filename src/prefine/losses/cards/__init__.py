"""Cards that describe losses: formula, options, needs, gradients in log-probabilities."""
