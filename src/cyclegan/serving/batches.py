"""Waiting images of one size go through the network together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Result]):
    file: Path
    size: tuple[int, int]
    answer: asyncio.Future[Result]


class Batches(Generic[Result]):
    """A queue in front of a function that translates several image files of one size at once.

    One batch at a time: two would share the processor and need twice the memory. A batch starts with the image that
    has waited longest.

    Args:
        translate: maps files to a result or an exception for each. It runs in a thread.
        max_pixels: limit for a batch of several images; a single image may be larger.
    """

    def __init__(self, translate: Callable[[Sequence[Path]], Sequence[Result | Exception]], max_pixels: int) -> None:
        self._translate, self._max_pixels = translate, max_pixels
        self._waiting: list[_Waiting[Result]] = []
        self._worker: asyncio.Task[None] | None = None
        self.count = 0
        """Batches so far."""
        self.images = 0
        """Images in these batches."""

    @property
    def waiting(self) -> int:
        """The number of images that wait for their batch."""
        return len(self._waiting)

    async def translate(self, file: Path, size: tuple[int, int]) -> Result:
        """Translate a file with the next batch of its size, (width, height) in pixels; raise the file's exception."""
        item = _Waiting[Result](file, size, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await item.answer
        finally:
            # After a cancellation its file is gone.
            if item in self._waiting:
                self._waiting.remove(item)

    async def _work(self) -> None:
        while self._waiting:
            batch = self._next()
            self.count += 1
            self.images += len(batch)
            try:
                results = await run_in_threadpool(self._translate, [item.file for item in batch])
            except Exception as error:
                results = [error] * len(batch)
            for item, result in zip(batch, results, strict=True):
                if item.answer.done():
                    continue
                if isinstance(result, Exception):
                    item.answer.set_exception(result)
                else:
                    item.answer.set_result(result)

    def _next(self) -> list[_Waiting[Result]]:
        width, height = size = self._waiting[0].size
        most = max(1, self._max_pixels // max(1, width * height))
        batch = [item for item in self._waiting if item.size == size][:most]
        self._waiting = [item for item in self._waiting if item not in batch]
        return batch
