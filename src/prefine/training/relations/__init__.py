"""Relations between an item's completions: their items, their losses' input, their figures."""
