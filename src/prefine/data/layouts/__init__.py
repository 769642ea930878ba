"""The layouts that users' data come in: each a pure function from a row to a row in our own columns."""
