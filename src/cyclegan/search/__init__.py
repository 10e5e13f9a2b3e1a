"""Optuna: which settings are tried, by which processes, and what is made of the results."""
