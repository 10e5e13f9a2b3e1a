"""Errors, files, locks, processes and signals: nothing of machine learning."""
