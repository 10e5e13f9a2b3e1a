"""Translate image files with trained generators."""
