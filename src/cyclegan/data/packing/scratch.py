"""Temporary storage on disk for decoded pixels, until the split of each image is known."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

import numpy as np

from cyclegan import params
from cyclegan.data.images import decode as decoding
from cyclegan.data.images.layout import SourceImage
from cyclegan.domains import Domain


class Scratch(Protocol):
    """Temporary storage for the decoded images of one domain."""

    def put(self, row: int, pixels: decoding.Pixels) -> None:
        """Store `[H, W, C]` as a row. Several threads may call it at once."""

    def pack(self, rows: list[int], target: Path) -> None:
        """Write an array with the images of these rows, in this order."""


class ResizedScratch:
    """Images of one size: `[N, H, W, C]`."""

    def __init__(self, path: Path, count: int, size: tuple[int, int], channels: int, kind: type) -> None:
        self.size = size
        self.array = np.memmap(path, kind, mode="w+", shape=(count, *size, channels))
        _reserve(path)

    def put(self, row: int, pixels: decoding.Pixels) -> None:
        self.array[row] = decoding.resize(pixels, self.size)

    def pack(self, rows: list[int], target: Path) -> None:
        shape = (len(rows), *self.array.shape[1:])
        out = np.lib.format.open_memmap(target, mode="w+", dtype=self.array.dtype, shape=shape)
        _reserve(target)
        for place, row in enumerate(rows):
            out[place] = self.array[row]
        out.flush()


class RaggedScratch:
    """Images at their own sizes: `[pixels, C]`, in the order of arrival."""

    def __init__(self, path: Path, channels: int, kind: type) -> None:
        self.path, self.channels, self.kind = path, channels, kind
        self.places: dict[int, tuple[int, int]] = {}
        """First pixel and number of pixels of each image."""
        self.end = 0
        self.lock = threading.Lock()
        path.touch()

    def put(self, row: int, pixels: decoding.Pixels) -> None:
        count = pixels.shape[0] * pixels.shape[1]
        with self.lock:
            with self.path.open("ab") as file:
                file.write(pixels.data)
            self.places[row] = self.end, count
            self.end += count

    def pack(self, rows: list[int], target: Path) -> None:
        shape = (sum(self.places[row][1] for row in rows), self.channels)
        out = np.lib.format.open_memmap(target, mode="w+", dtype=self.kind, shape=shape)
        _reserve(target)
        source = np.memmap(self.path, self.kind, mode="r", shape=(self.end, self.channels))
        start = 0
        for row in rows:
            first, count = self.places[row]
            out[start : start + count] = source[first : first + count]
            start += count
        out.flush()


def scratch_for(path: Path, domain: Domain, found: list[SourceImage], data: params.Data) -> Scratch:
    """Create the storage for the images of a domain."""
    kind = np.uint16 if data.bit_depth == 16 else np.uint8
    channels = data.channels_A if domain == "A" else data.channels_B
    if data.load_size == "original":
        return RaggedScratch(path, channels, kind)
    count = sum(image.domain == domain for image in found)
    return ResizedScratch(path, count, data.load_size, channels, kind)


def _reserve(path: Path) -> None:
    """Reserve the space of a new file: on a full disk, a write to mapped memory would kill the process silently."""
    size = path.stat().st_size
    if size and hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None
