"""Read the output of stage `split`: packed images, their manifest and their pairs."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd

from cyclegan.domains import DOMAINS, SPLITS, Domain, Split
from cyclegan.system.errors import UserError, one_line

Images = np.ndarray[Any, np.dtype[Any]]


class RaggedImages:
    """Images of different sizes in one array, without padding.

    Args:
        pixels: `[P, C]` uint8 or uint16, typically mapped from disk: row by row, one image after another.
        sizes: `[N, 2]`, height and width of each image; their areas add up to P.

    Raises:
        ValueError: the areas do not add up.
    """

    def __init__(self, pixels: Images, sizes: Images) -> None:
        ends = np.cumsum(sizes.prod(axis=1, dtype=np.int64))
        if (ends[-1] if len(ends) else 0) != len(pixels):
            raise ValueError(f"{len(pixels)} pixels, but the sizes need {ends[-1] if len(ends) else 0}")
        self.sizes = sizes
        self.dtype = pixels.dtype
        self.shape = (len(sizes), None, None, pixels.shape[1])
        """The shape `[N, H, W, C]`; the sides are None, because they differ."""
        self.pixels = pixels
        self._ends = ends

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | Images) -> Images:
        """One image `[H, W, C]`, or several of equal size `[n, H, W, C]`.

        Raises:
            ValueError: the sizes are unequal, or `index` is empty.
        """
        if isinstance(index, int | np.integer):
            height, width = self.sizes[index]
            end = self._ends[index]
            return self.pixels[end - height * width : end].reshape(height, width, -1)
        return np.stack([self[int(n)] for n in index])


ImageSet = Images | RaggedImages
"""The images of a split: of one size, `[N, H, W, C]`, or of different sizes."""


def sizes_of(images: ImageSet) -> Images:
    """Height and width of each image: `[N, 2]`."""
    if isinstance(images, RaggedImages):
        return images.sizes
    return np.tile(np.array(images.shape[1:3]), (len(images), 1))


def pixels_of(images: ImageSet) -> Images:
    """All images as pixels `[P, C]`: row by row, one image after another."""
    return images.pixels if isinstance(images, RaggedImages) else images.reshape(-1, images.shape[-1])


def picked(images: ImageSet, rows: Images) -> Images | list[Images]:
    """Select images: `[n, H, W, C]`, or a list of `[H, W, C]` if their sizes differ."""
    return [images[int(row)] for row in rows] if isinstance(images, RaggedImages) else images[rows]


def release_pages(images: ImageSet) -> None:
    """Release the memory of pages that were read from a mapped file; they are read again when needed.

    Otherwise the system releases them only when memory is short, and until then they count as this process's memory.
    """
    pixels = images.pixels if isinstance(images, RaggedImages) else images
    if isinstance(pixels.base, mmap.mmap):
        pixels.base.madvise(mmap.MADV_DONTNEED)


def equal_batches(images: ImageSet, batch_size: int) -> Iterator[Images]:
    """Indices of all images, in batches of at most `batch_size` images of one size."""
    sizes = sizes_of(images)
    for size in np.unique(sizes, axis=0):
        alike = np.flatnonzero((sizes == size).all(axis=1))
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


@dataclass(frozen=True)
class Pairs:
    """True pairs of one split: row `index_A[i]` of domain A belongs to row `index_B[i]` of domain B."""

    index_A: Images
    index_B: Images
    scored: Images
    """Boolean: whether the pair counts in the scores."""
    id_A: list[str]
    id_B: list[str]
    carried: pd.DataFrame
    """All other columns of the source, one row per pair, as text."""

    def __len__(self) -> int:
        return len(self.index_A)

    @property
    def ids(self) -> list[str]:
        """Names of the pairs: the names of their images in A."""
        return self.id_A


@dataclass(frozen=True)
class PackedDataset:
    """The output folder of stage `split`. Pixels are mapped from disk and read when needed."""

    folder: Path
    manifest: pd.DataFrame
    """One row per image: id, domain, split, index (row in the array), file, part, width, height, mode, color_profile
    (`converted` to sRGB, `unusable` or empty), sha256, and label if the data has labels. Width and height are those of
    the decoded image before resizing."""
    table: pd.DataFrame
    """All pairs as text: split, index_A, index_B, id_A, id_B, scored and all other columns of the source."""
    arrays: dict[tuple[str, str], ImageSet]

    @classmethod
    def open(cls, folder: Path) -> PackedDataset:
        """Open and check `folder`.

        Raises:
            UserError: a file is missing, cut short, or inconsistent with the manifest.
        """
        try:
            manifest = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False, encoding="utf-8")
            _require(manifest, "manifest.csv", {"id", "domain", "split", "index", "width", "height"})
            manifest = manifest.astype({"index": int, "width": int, "height": int})
            table = pd.read_csv(folder / "pairs.csv", dtype=str, keep_default_na=False, encoding="utf-8")
            arrays: dict[tuple[str, str], ImageSet] = {}
            for domain in DOMAINS:
                for split in SPLITS:
                    array = np.load(folder / f"{split}{domain}.npy", mmap_mode="r", allow_pickle=False)
                    rows = manifest[(manifest["domain"] == domain) & (manifest["split"] == split)]
                    images = array
                    if array.ndim == 2:
                        sizes = rows.sort_values("index")[["height", "width"]].to_numpy()
                        images = RaggedImages(array, sizes)
                    elif array.ndim != 4 or len(array) != len(rows):
                        raise ValueError(
                            f"{split}{domain}.npy has shape {array.shape}, but the manifest lists {len(rows)} images"
                        )
                    if array.dtype not in (np.uint8, np.uint16):
                        raise ValueError(f"{split}{domain}.npy holds {array.dtype}, not uint8 or uint16")
                    if sorted(rows["index"]) != list(range(len(rows))):
                        raise ValueError(f"manifest.csv does not number the images of {split}{domain} from 0")
                    arrays[domain, split] = images
            _check_pairs(table, arrays)
        # numpy parses the header of an array as Python text. A number in a table may be too large for an array.
        except (OSError, ValueError, KeyError, EOFError, OverflowError, TypeError, SyntaxError, TokenError) as error:
            reason = one_line(error)
            raise UserError(
                f"{folder}: holds no complete packed data ({reason}); create it with 'dvc repro split'"
            ) from None
        return cls(folder, manifest, table, arrays)

    @property
    def bit_depth(self) -> int:
        """8 or 16: pixels are uint8 or uint16."""
        return self.arrays["A", "train"].dtype.itemsize * 8

    def images(self, domain: Domain, split: Split) -> ImageSet:
        """Pixels `[N, H, W, C]` or `RaggedImages`, uint8 or uint16, mapped read-only from disk."""
        return self.arrays[domain, split]

    def require_channels(self, split: Split, wanted: Mapping[Domain, int], claim: str, remedy: str) -> None:
        """Check the number of channels of the images of a split.

        Args:
            wanted: channels by domain.
            claim: start of the message: who needs these channels.
            remedy: end of the message.

        Raises:
            UserError: the images of one of these domains have other channels.
        """
        found = {domain: self.images(domain, split).shape[-1] for domain in wanted}
        if found != wanted:
            listed = " and ".join(map(str, found.values()))
            raise UserError(f"{claim}, but the images of {self.folder} have {listed}; {remedy}")

    def ids(self, domain: Domain, split: Split) -> list[str]:
        """Names of the images, in the order of `images`."""
        rows = self.manifest[(self.manifest["domain"] == domain) & (self.manifest["split"] == split)]
        return list(rows.sort_values("index")["id"])

    def labels(self, domain: Domain, split: Split) -> list[str] | None:
        """Classes of the images, in the order of `images`; None if the data has no labels."""
        if "label" not in self.manifest:
            return None
        rows = self.manifest[(self.manifest["domain"] == domain) & (self.manifest["split"] == split)]
        return list(rows.sort_values("index")["label"])

    def pairs(self, split: Split) -> Pairs:
        """The true pairs within a split; possibly empty."""
        rows = self.table[self.table["split"] == split].reset_index(drop=True)
        return Pairs(
            index_A=rows["index_A"].to_numpy(dtype=np.int64),
            index_B=rows["index_B"].to_numpy(dtype=np.int64),
            scored=(rows["scored"] == "true").to_numpy(dtype=bool),
            id_A=list(rows["id_A"]),
            id_B=list(rows["id_B"]),
            carried=rows.drop(columns=["split", "index_A", "index_B", "id_A", "id_B", "scored"]),
        )

    @property
    def images_digest(self) -> str:
        """SHA-256 of the decoded images of both domains, independent of names, split and size."""
        images = sorted(set(self.manifest["domain"] + " " + self.manifest["sha256"]))
        return hashlib.sha256("\n".join(images).encode()).hexdigest()

    def digest(self, split: Split) -> str:
        """MD5 of the pixels, sizes, names and pairs of one split; equal for measurements of the same images.

        It does not depend on the images of the other splits.
        """
        md5 = hashlib.md5(usedforsecurity=False)
        for domain in DOMAINS:
            images = self.images(domain, split)
            for number, name in enumerate(self.ids(domain, split)):
                image = np.ascontiguousarray(images[number])
                md5.update(f"{domain} {name} {image.dtype} {image.shape}\n".encode())
                md5.update(image.data)
        pairs = self.table.loc[self.table["split"] == split, ["id_A", "id_B", "scored"]]
        md5.update(pairs.to_csv(index=False).encode())
        return md5.hexdigest()


def _require(table: pd.DataFrame, name: str, columns: set[str]) -> None:
    missing = columns - set(table)
    if missing:
        raise ValueError(f"{name} has no column {min(missing)}")


def _check_pairs(table: pd.DataFrame, arrays: Mapping[tuple[str, str], ImageSet]) -> None:
    """Check that every pair is within one split and its images exist."""
    _require(table, "pairs.csv", {"split", "index_A", "index_B", "id_A", "id_B", "scored"})
    for split, rows in table.groupby("split"):
        for domain in DOMAINS:
            index = rows[f"index_{domain}"].astype(int)
            if split not in SPLITS or index.min() < 0 or index.max() >= len(arrays[domain, str(split)]):
                raise ValueError(f"pairs.csv names images of {split}{domain} that do not exist")
