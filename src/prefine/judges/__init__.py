"""Judges: what to ask about two completions, and how to read the answer; no network, no files."""
