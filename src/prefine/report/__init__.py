"""The report: its data, its page and its figures."""
