"""Addresses, and errors that may hold some, as they may be shown."""

from __future__ import annotations

import re

from cyclegan.errors import one_line

SECRET = "password|passwd|token|secret|signature|credential|key"


def without_credentials(text: str) -> str:
    """Drop `user:password@`, and the values of `password=…`, `token=…` and their like, from every URI in a text."""
    # First as SQLAlchemy reads it, whose passwords may hold slashes.
    text = re.sub(r"(?<=://)[^:/\s]*:[^@\s]*@", "", text)
    text = re.sub(r"(?<=://)[^/\s]+@", "", text)
    return re.sub(rf"(?i)(?<=[?&;\s])([\w-]*(?:{SECRET}))=[^&;\s'\"]*", r"\1=***", text)


def reason(error: BaseException) -> str:
    """An error in a few words, without credentials."""
    return without_credentials(one_line(error))[:300]
