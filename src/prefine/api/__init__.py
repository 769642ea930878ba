"""The Python API: the stages on objects in memory. Its stable names are those of `prefine.__all__`."""
