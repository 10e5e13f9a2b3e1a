"""Addresses as they may be shown."""

from __future__ import annotations

import re


def without_credentials(text: str) -> str:
    """Drop `user:password@` and `password=…` from every URI in a text."""
    return re.sub(r"(?<=://)[^/\s]+@|\bpassword=[^&\s]*", "", text)
