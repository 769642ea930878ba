"""Cards that describe losses: formula, options, needs, and what a loss does to log-probabilities."""
