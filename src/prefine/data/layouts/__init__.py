"""Layouts of users' data, each a pure function from a row to a row in our own columns."""
