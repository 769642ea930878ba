"""RewardBench, both versions: instances, and results with their metrics."""
