"""Log-probabilities under the initial policy and the reference, computed once and kept."""
