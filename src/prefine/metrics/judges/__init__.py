"""The quality of a judge or a reward model."""
