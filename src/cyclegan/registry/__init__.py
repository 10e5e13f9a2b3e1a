"""The MLflow model registry: registering generators, choosing the champion, and the served model."""
