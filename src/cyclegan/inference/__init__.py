"""Trained generators at work: arrays in, arrays out; image files in, image files out."""
