"""Errors, files, locks, processes and signals, without any machine learning."""
