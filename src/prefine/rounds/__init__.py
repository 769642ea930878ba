"""Rounds: runs that each go on from the policy of the one before, and what they come to."""
