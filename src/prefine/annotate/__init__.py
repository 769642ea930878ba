"""People's verdicts on a run's answers: which to ask for, in which order, and what they tell."""
