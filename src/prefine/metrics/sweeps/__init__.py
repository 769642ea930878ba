"""Statistics of several runs: differences over seeds, the best setting, the best of many."""
