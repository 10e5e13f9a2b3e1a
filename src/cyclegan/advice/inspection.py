"""What the images of two domains are: counts, sizes, channels, bits, unreadable and identical files, and a sample."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from cyclegan import params
from cyclegan.advice.findings import ENOUGH_FOR_GATE, DomainFindings
from cyclegan.data.fetching.archives import extract
from cyclegan.data.fetching.raw_folder import image_folders
from cyclegan.data.images import decode
from cyclegan.data.images.image import BadImageError, Pixels
from cyclegan.data.images.layout import SourceImage, endings, list_images, shown, walk
from cyclegan.domains import DOMAINS, Domain
from cyclegan.project import Project
from cyclegan.system.errors import UserError

# Stage split refuses fewer: two to train on, one each for validation and test.
FEWEST_IMAGES = 4
# Endings of formats that can hold 16 bits.
DEEP_SUFFIXES = (".png", ".tif", ".tiff")
# Channels that stage split converts into each other.
CONVERTIBLE = {1, 3, 4}
# Unreadable images that a message lists.
NAMES_SHOWN = 5
SHOW_PROGRESS_FROM = 500


@dataclass(frozen=True)
class Inspection:
    """What the images of both domains are, and the readable ones.

    Attributes:
        seconds: that decoding all images took.
        has_pairs: whether true pairs come with the images.
        in_both: images that both domains hold.
    """

    domains: Mapping[Domain, DomainFindings]
    images: Mapping[Domain, Sequence[SourceImage]]
    seconds: float
    has_pairs: bool
    in_both: int

    def sample(self, domain: Domain, count: int, size: int, channels: int) -> Pixels:
        """At most `count` training images, evenly spaced over the files: [N, size, size, channels] uint8."""
        images = [image for image in self.images[domain] if image.split == "train"]
        chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        return np.stack(
            [decode.resize(decode.to_channels(_pixels(images[n], bit_depth=8), channels), (size, size)) for n in chosen]
        )


def inspect_folders(data: params.Data, project: Project) -> Inspection:
    """Inspect `data.folder_A` and `data.folder_B`.

    Raises:
        UserError: see `image_folders` and `_inspect`, or a folder holds no image.
    """
    images: list[SourceImage] = []
    unreadable: dict[Domain, dict[str, str]] = {}
    for domain, folder in image_folders(data, project).items():
        found = walk(folder)
        if not found.images:
            other = f"; it holds {len(found.others)} other files" if found.others else ""
            raise UserError(f"{shown(folder)}: holds no image ({endings()}){other}; name a folder of images")
        images += [SourceImage(folder / path, str(path), str(path), domain, "train", "whole") for path in found.images]
        unreadable[domain] = {shown(path): reason for path, reason in found.broken}
    return _inspect(images, unreadable, has_pairs=False)


@contextmanager
def inspect_archive(archive: Path) -> Iterator[Inspection]:
    """Inspect an archive, unpacked into a temporary folder until the end of the context.

    Raises:
        UserError: see `extract`, `list_images` and `_inspect`.
    """
    with TemporaryDirectory(prefix="cyclegan-") as folder:
        extract(archive, Path(folder))
        images = list_images(Path(folder))
        root = images[0].path.parents[len(Path(images[0].file).parts) - 1]
        has_pairs = images[0].part != "whole" or (root / "pairs.csv").is_file()
        yield _inspect(images, {domain: {} for domain in DOMAINS}, has_pairs)


@dataclass(frozen=True)
class _Decoded:
    height: int
    width: int
    channels: int
    is_deep: bool
    sha256: str


def _inspect(
    images: Sequence[SourceImage], unreadable: Mapping[Domain, Mapping[str, str]], has_pairs: bool
) -> Inspection:
    """Decode every image once.

    Raises:
        UserError: a domain has too few images, identical ones only, or channels that cannot be converted.
    """
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        quiet = len(images) < SHOW_PROGRESS_FROM
        results = list(
            tqdm(pool.map(_decoded, images), "inspect", len(images), unit="image", leave=False, disable=quiet)
        )
    findings: dict[Domain, DomainFindings] = {}
    readable: dict[Domain, list[SourceImage]] = {}
    digests: dict[Domain, set[str]] = {}
    for domain in DOMAINS:
        pairs = [(i, r) for i, r in zip(images, results, strict=True) if i.domain == domain]
        good = [(image, result) for image, result in pairs if isinstance(result, _Decoded)]
        reasons = dict(unreadable[domain]) | {shown(i.file): r for i, r in pairs if isinstance(r, str)}
        refuse_too_few(domain, good, reasons)
        refuse_mixed_channels(domain, Counter(result.channels for _, result in good))
        findings[domain] = _summary(good, reasons)
        readable[domain] = [image for image, _ in good]
        digests[domain] = {result.sha256 for _, result in good}
    in_both = len(digests["A"] & digests["B"])
    return Inspection(findings, readable, time.monotonic() - start, has_pairs, in_both)


def refuse_too_few(domain: Domain, good: Sequence[tuple[SourceImage, _Decoded]], reasons: Mapping[str, str]) -> None:
    """Refuse what stage split would refuse, with the numbers.

    Raises:
        UserError: the domain has fewer different images than the three splits need.
    """
    different = len({result.sha256 for _, result in good})
    if different >= FEWEST_IMAGES:
        return
    listed = "".join(f"\n  {name}: {reason}" for name, reason in list(reasons.items())[:NAMES_SHOWN])
    also = f", {len(reasons)} are unreadable" if reasons else ""
    also += f", {len(good) - different} are duplicates" if len(good) > different else ""
    raise UserError(
        f"domain {domain}: {different} different images{also}; add images: {FEWEST_IMAGES} are the least, "
        f"{ENOUGH_FOR_GATE} allow to compare models{listed}"
    )


def refuse_mixed_channels(domain: Domain, channels: Mapping[int, int]) -> None:
    """Refuse images whose channels cannot be converted into each other.

    Raises:
        UserError: the domain mixes them.
    """
    if set(channels) <= CONVERTIBLE or len(channels) == 1:
        return
    listed = " and ".join(f"{count} images of {n} channels" for n, count in sorted(channels.items()))
    raise UserError(f"domain {domain}: mixes {listed}, and only 1, 3 and 4 can be converted; separate the images")


def _summary(good: Sequence[tuple[SourceImage, _Decoded]], reasons: Mapping[str, str]) -> DomainFindings:
    decoded = [result for _, result in good]
    by_area = sorted(decoded, key=lambda result: result.height * result.width)
    first_of = {result.sha256: image for image, result in reversed(good)}
    return DomainFindings(
        counts=Counter(image.split for image in first_of.values()),
        side=median_low(min(result.height, result.width) for result in decoded),
        smallest=(by_area[0].height, by_area[0].width),
        largest=(by_area[-1].height, by_area[-1].width),
        channels=Counter(result.channels for result in decoded),
        deep=sum(result.is_deep for result in decoded),
        duplicates=len(decoded) - len(first_of),
        unreadable=reasons,
    )


def _decoded(image: SourceImage) -> _Decoded | str:
    """The facts of one image, or why it is unreadable."""
    try:
        pixels = _pixels(image, bit_depth=16 if image.path.suffix.lower() in DEEP_SUFFIXES else 8)
    except BadImageError as error:
        return str(error)
    except MemoryError:
        raise decode.no_memory_for(image.path, shown(image.file)) from None
    height, width, channels = pixels.shape
    # 8 bits scaled to 16 are multiples of 257.
    is_deep = pixels.dtype == np.uint16 and bool((pixels % 257).any())
    digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return _Decoded(height, width, channels, is_deep, digest.hexdigest())


def _pixels(image: SourceImage, bit_depth: int) -> Pixels:
    pixels = decode.read(image.path, bit_depth).pixels
    if image.part == "whole":
        return pixels
    height, width = pixels.shape[:2]
    if width != 2 * height:
        raise BadImageError(f"has {width}×{height} pixels, but a pair side by side is twice as wide as high")
    return pixels[:, :height] if image.part == "left" else pixels[:, height:]
