"""Progress of work whose length is known: a bar with the time left on a terminal, one line elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def progress_bar(name: str, total: int, unit: str) -> Iterator[tqdm[Any]]:
    """A bar on stderr, whose `update(count)` moves it.

    Args:
        name: what is being done.
        total: number of units of the whole work.
        unit: singular noun, such as `image`.
    """
    # `disable=None`: no bar where stderr is not a terminal.
    with tqdm(total=total, desc=name, unit=unit, mininterval=1, disable=None) as bar:
        if bar.disable:
            print(f"{name}: {total} {unit}s", flush=True)
        yield bar
