"""Hyperparameter search with Optuna: the space, the study, the worker processes and the verdict."""
