"""Model backends, one folder or file each."""
