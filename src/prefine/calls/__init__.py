"""One engine for everything that is asked of a model or judge: journal, limits, accounting."""
