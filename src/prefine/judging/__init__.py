"""Judges that answer through the call engine: comparison → call → judgment."""
