"""The playground: a small world with a computed gold score, and a tiny model trained on it."""
