"""The commands that are not stages of the pipeline."""
