"""The exact gradient of a step."""
