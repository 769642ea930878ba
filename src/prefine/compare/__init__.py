"""Two or more runs side by side: settings, paired differences, curves, answers."""
