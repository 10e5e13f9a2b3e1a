"""Metrics of how well translations keep the classes of labeled images."""
