"""What is measured, each number with its uncertainty: pure functions of arrays, numpy only."""
