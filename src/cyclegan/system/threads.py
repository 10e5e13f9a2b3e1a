"""Background threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread while this context is open, and wait for its end.

    Args:
        name: name of the thread.
        work: gets an event that is set when the context ends; it must then return soon.
    """
    over = threading.Event()
    # A daemon thread does not keep the process alive when the main thread ends in another way.
    thread = threading.Thread(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
