"""Losses of reward models: functions of the rewards of answers that stand in an order."""
