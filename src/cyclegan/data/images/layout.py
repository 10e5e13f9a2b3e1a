"""Find the images of each domain and split in a folder.

Three layouts are supported:

- domains: `trainA trainB`, optionally `valA valB testA testB`;
- plain: `A B`, all for training;
- pairs: `train`, optionally `val test`, with images twice as wide as high: the left half is A, the right half is B.

An optional `pairs.csv` beside these folders lists true pairs. Columns `A` and `B` hold paths relative to it; a missing
side is empty. The optional column `scored` marks the pairs that count in the scores. Images of one value in the
optional column `group` stay in one split. All other columns are kept.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cyclegan.domains import DOMAINS, SPLITS, Domain, Split
from cyclegan.system.errors import UserError

Part = Literal["whole", "left", "right"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ACCEPTED = (
    "trainA and trainB (optionally valA, valB, testA, testB), or A and B, "
    "or train (optionally val, test) with images twice as wide as high, A left and B right"
)


@dataclass(frozen=True)
class SourceImage:
    """One image of one domain: a file, or one half of a file that holds a pair."""

    path: Path
    file: str
    """`path` relative to the data set's root, with forward slashes."""
    id: str
    """`file` without its extension, unless two files differ only in the extension."""
    domain: Domain
    split: Split
    part: Part


@dataclass(frozen=True)
class Layout:
    """A data set on disk."""

    kind: Literal["domains", "plain", "pairs"]
    root: Path
    folders: tuple[str, ...]
    """Names of the folders under `root` that hold images."""


@dataclass(frozen=True)
class Found:
    """The files under a folder, as sorted paths relative to it."""

    images: list[Path]
    others: list[Path]
    """Regular files without an image extension."""
    broken: list[tuple[Path, str]]
    """Images that cannot be opened, with the reason."""

    @property
    def kinds_of_others(self) -> Counter[str]:
        """Number of `others` by file extension."""
        return Counter(shown(path.suffix.lower()) if path.suffix else "without extension" for path in self.others)


def find_layout(folder: Path) -> Layout:
    """Recognize the layout of `folder`, or of its only subfolder.

    Raises:
        UserError: the folder has none of the layouts.
    """
    root = folder
    for _ in range(3):
        names = _visible(root)
        kind = _kind(names)
        if kind is not None:
            return Layout(kind, root, tuple(_folders(kind, names)))
        if len(names) != 1:
            break
        root = root / names[0]
    top = _visible(folder)
    found = f"folders {', '.join(shown(name) for name in top[:8])}" if top else "no folders"
    more = ", …" if len(top) > 8 else ""
    raise UserError(f"no known layout: found {found}{more}; use {ACCEPTED}")


def list_images(folder: Path) -> list[SourceImage]:
    """Every image under `folder`, sorted by file name, A before B.

    Raises:
        UserError: unknown layout, an image that cannot be opened, or a domain without images.
    """
    layout = find_layout(folder)
    images: list[SourceImage] = []
    for name in layout.folders:
        found = walk(layout.root / name)
        if found.broken:
            path, reason = found.broken[0]
            raise UserError(
                f"{shown(layout.root / name / path)}: {reason}; regenerate data/raw with 'dvc repro --force fetch'"
            )
        for relative in found.images:
            path = layout.root / name / relative
            file = f"{name}/{relative.as_posix()}"
            stem = file.removesuffix(relative.suffix)
            if layout.kind == "pairs":
                split: Split = name  # type: ignore[assignment]
                images += [
                    SourceImage(path, file, stem, "A", split, "left"),
                    SourceImage(path, file, stem, "B", split, "right"),
                ]
            else:
                domain: Domain = name[-1]  # type: ignore[assignment]
                split = (name[:-1] or "train") if layout.kind == "domains" else "train"  # type: ignore[assignment]
                images.append(SourceImage(path, file, stem, domain, split, "whole"))
    for domain in DOMAINS:
        if not any(image.domain == domain for image in images):
            where = f"train{domain}" if layout.kind == "domains" else domain if layout.kind == "plain" else "train"
            raise UserError(f"domain {domain}: has no images; add {endings()} files to {where}")
    count = Counter((image.domain, image.id) for image in images)
    images = [replace(i, id=i.file) if count[i.domain, i.id] > 1 else i for i in images]
    return sorted(images, key=lambda image: (image.domain, image.file))


def walk(folder: Path) -> Found:
    """List every regular file under `folder`; links are followed, but no folder is entered twice.

    Hidden files, sockets, pipes and devices are skipped.
    """
    images: list[Path] = []
    others: list[Path] = []
    broken: list[tuple[Path, str]] = []
    entered: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(folder)
            if _hidden(name):
                continue
            is_image = path.suffix.lower() in SUFFIXES
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    continue
                if is_image and not _is_text(relative):
                    broken.append((relative, "its name is not valid UTF-8"))
                    continue
                if is_image and not os.access(path, os.R_OK):
                    broken.append((relative, "no permission to read it"))
                    continue
            except OSError as error:
                broken.append((relative, f"{error.strerror}"))
                continue
            (images if is_image else others).append(relative)
    return Found(sorted(images), sorted(others), sorted(broken))


def endings() -> str:
    """The file extensions of images, for messages."""
    return "/".join(sorted(SUFFIXES))


def shown(name: object) -> str:
    """A file name for a message: one line, control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))


def _kind(names: list[str]) -> Literal["domains", "plain", "pairs"] | None:
    if "trainA" in names and "trainB" in names:
        return "domains"
    if "A" in names and "B" in names:
        return "plain"
    if "train" in names and "trainA" not in names and "trainB" not in names:
        return "pairs"
    return None


def _folders(kind: str, names: list[str]) -> list[str]:
    wanted: dict[str, list[str]] = {
        "domains": [f"{split}{domain}" for split in SPLITS for domain in DOMAINS],
        "plain": list(DOMAINS),
        "pairs": list(SPLITS),
    }
    return [name for name in wanted[kind] if name in names]


def _visible(folder: Path) -> list[str]:
    """Subfolders, without hidden ones and without those that macOS adds to archives."""
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not _hidden(e.name) and e.name != "__MACOSX")


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")
