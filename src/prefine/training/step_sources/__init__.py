"""Step sources: where the items of each optimizer step come from."""
