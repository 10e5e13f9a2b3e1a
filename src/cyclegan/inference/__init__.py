"""Trained generators at work: arrays in, arrays out; picture files in, picture files out."""
