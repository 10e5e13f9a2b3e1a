"""Weights saved by other programs."""
