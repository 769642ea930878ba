"""Bridged pairs: rejected answers rewritten towards the chosen ones (arXiv:2408.07471)."""
