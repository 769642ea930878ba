"""Configurations: their sections, the components that they name, and YAML files."""
