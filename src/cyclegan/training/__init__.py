"""The training step and everything that shapes it. Knows nothing of MLflow, DVC or Optuna."""
