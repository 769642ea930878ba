"""How good a judge or a reward model is."""
