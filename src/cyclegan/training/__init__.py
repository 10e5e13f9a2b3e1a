"""The training step and everything that shapes it, independent of MLflow, DVC and Optuna."""
