"""The forward and backward pass: layers, attention, head."""
