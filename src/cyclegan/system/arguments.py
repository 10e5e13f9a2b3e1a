"""Types of command-line arguments."""

from __future__ import annotations

import argparse


def positive_number(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def comma_separated(text: str) -> list[str]:
    """Split a text at its commas and drop empty names."""
    return [name for part in text.split(",") if (name := part.strip())]
