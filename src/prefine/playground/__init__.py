"""The embedded playground: a small world with a computable gold score, and a tiny model trained on it."""
