"""Packed data sets, and generators with a known effect."""

from packed_data import emoji, few, linear, network, pack, unchanged

__all__ = ["emoji", "few", "linear", "network", "pack", "unchanged"]
