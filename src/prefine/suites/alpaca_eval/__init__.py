"""AlpacaEval: its files, the calibration of its length control, and their metrics."""
