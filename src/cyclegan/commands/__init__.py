"""The commands that are not pipeline stages."""
