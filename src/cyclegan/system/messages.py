"""Warnings and progress of this package on stderr, in one format."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Messages(logging.Handler):
    """Write `cyclegan: message` to the current `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


@contextmanager
def shown_messages() -> Iterator[None]:
    """Print the messages of this package's loggers of level INFO and above."""
    logger, handler = logging.getLogger("cyclegan"), _Messages()
    handler.setFormatter(logging.Formatter("cyclegan: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
