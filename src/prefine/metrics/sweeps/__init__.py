"""What several runs say together: differences over seeds, the best setting, the best of many."""
