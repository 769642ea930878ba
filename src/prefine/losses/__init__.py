"""Preference losses: pure functions of log-probabilities, one value per pair."""
