"""Win rates of one model against another, plain and controlled, and ratings of many models."""
