"""Decode every file of the source once."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from cyclegan import params
from cyclegan.data.images import decode as decoding
from cyclegan.data.images.image import ProfileUse
from cyclegan.data.images.layout import SourceImage, shown
from cyclegan.data.packing.scratch import Scratch
from cyclegan.domains import DOMAINS, Domain

SHOW_PROGRESS_FROM = 500
LARGE = 30_000_000
"""Number of pixels above which images are decoded one at a time: a pixel takes more than 12 bytes."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image without its pixels, which are in `Scratch`."""

    image: SourceImage
    row: int
    """Row of the image in the `Scratch` of its domain."""
    width: int
    height: int
    mode: str
    profile_use: ProfileUse
    sha256: str
    """Checksum of the decoded image before resizing."""


@dataclass(frozen=True)
class LeftOut:
    """An image that was found but not packed."""

    image: SourceImage
    kind: str
    """`unreadable` or `duplicate`."""
    reason: str


def decode_all(
    found: list[SourceImage], data: params.Data, scratch: dict[Domain, Scratch]
) -> tuple[list[Decoded], list[LeftOut]]:
    """Decode every file once, in parallel, into the scratch files. Results are sorted by domain and file.

    Raises:
        UserError: out of memory for an image.
    """
    rows: dict[Domain, int] = dict.fromkeys(DOMAINS, 0)
    by_file: dict[str, list[tuple[SourceImage, int]]] = {}
    for image in found:
        by_file.setdefault(image.file, []).append((image, rows[image.domain]))
        rows[image.domain] += 1
    channels: dict[Domain, int] = {"A": data.channels_A, "B": data.channels_B}

    def one_file(images: list[tuple[SourceImage, int]]) -> list[Decoded | LeftOut]:
        path = images[0][0].path
        try:
            decoded = decoding.read(path, data.bit_depth)
            out: list[Decoded | LeftOut] = []
            for image, row in images:
                part = _part(decoded.pixels, image.part)
                pixels = np.ascontiguousarray(decoding.to_channels(part, channels[image.domain]))
                digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
                digest.update(pixels.data)
                scratch[image.domain].put(row, pixels)
                height, width = pixels.shape[:2]
                out.append(Decoded(image, row, width, height, decoded.mode, decoded.profile_use, digest.hexdigest()))
            return out
        except decoding.BadImageError as error:
            return [LeftOut(image, "unreadable", str(error)) for image, _ in images]
        except MemoryError:
            raise decoding.no_memory_for(path, shown(images[0][0].file)) from None

    one_large = threading.Lock()

    def in_turn(images: list[tuple[SourceImage, int]]) -> list[Decoded | LeftOut]:
        width, height = decoding.size(images[0][0].path)
        with one_large if width * height > LARGE else nullcontext():
            return one_file(images)

    decoded: list[Decoded] = []
    left_out: list[LeftOut] = []
    # Pillow and hashlib release the GIL, so threads use all cores and share the arrays.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(in_turn, by_file.values())
        quiet = len(by_file) < SHOW_PROGRESS_FROM
        for result in tqdm(results, "split", len(by_file), unit="image", smoothing=0.05, disable=quiet):
            for item in result:
                if isinstance(item, Decoded):
                    decoded.append(item)
                else:
                    left_out.append(item)
    return sorted(decoded, key=_place), sorted(left_out, key=_place)


def _place(item: Decoded | LeftOut) -> tuple[str, str]:
    return item.image.domain, item.image.file


def _part(pixels: decoding.Pixels, part: str) -> decoding.Pixels:
    if part == "whole":
        return pixels
    height, width = pixels.shape[:2]
    if width != 2 * height:
        raise decoding.BadImageError(f"has {width}×{height} pixels, but a pair side by side is twice as wide as high")
    return pixels[:, :height] if part == "left" else pixels[:, height:]
