"""The metrics that a configuration can name, each a line of `config/components.py`."""
