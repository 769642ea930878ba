"""Implicit rewards and likelihoods of a trained model."""
