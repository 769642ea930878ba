"""Attention over packed trees of prompts and completions."""
