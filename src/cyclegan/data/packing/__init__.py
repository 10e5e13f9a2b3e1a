"""Decode, split and pack the images of `data/raw` into `data/split`."""
