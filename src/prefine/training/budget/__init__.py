"""The automatic budget: the weight that keeps the fall of unseen answers at the budget."""
