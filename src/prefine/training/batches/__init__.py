"""Rows that go through the model, and which items a step takes."""
