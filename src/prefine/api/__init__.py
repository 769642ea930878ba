"""The Python API: the stages on objects in memory. `prefine.__all__` has its stable names."""
