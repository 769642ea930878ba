"""Servers of models that prefine starts itself, on loopback, for the time of a stage."""
