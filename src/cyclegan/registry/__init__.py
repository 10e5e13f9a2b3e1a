"""The MLflow model registry: how trained generators get there, and what it serves."""
