"""Fits of qualities to duels: Bradley-Terry, and a Gaussian belief."""
