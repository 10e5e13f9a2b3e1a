"""Stage `split`: decode every file once, decide who trains, and pack the pixels.

Writes `manifest.csv`, `pairs.csv`, `left_out.csv` and one array per domain and split into `data/split`, and a summary
into `reports/split.json`. An array is `[N, H, W, C]`, or `[pixels, C]` where pictures keep their own sizes. The same
input gives the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from cyclegan import files, params
from cyclegan.data import images as decoding
from cyclegan.data.labels import folder_labels
from cyclegan.data.layout import SourceImage, list_images, shown
from cyclegan.data.staging import remove_leftovers, replacing_folder
from cyclegan.domains import DOMAINS, SPLITS, Domain, Split
from cyclegan.errors import UserError
from cyclegan.project import Project

SHOW_PROGRESS_FROM = 500
NAMES_IN_SUMMARY = 20
NAMES_IN_MESSAGE = 50
PAIR_COLUMNS = ["split", "index_A", "index_B", "id_A", "id_B", "scored"]
MANIFEST_COLUMNS = ["id", "domain", "split", "index", "file", "part", "width", "height", "mode", "sha256"]


Key = tuple[Domain, str]
"""A picture: domain and file. A file with a pair side by side is two pictures."""


@dataclass(frozen=True)
class Decoded:
    """What is kept of a decoded picture besides its pixels."""

    image: SourceImage
    row: int
    """Its number in the `Scratch` of its domain."""
    width: int
    height: int
    mode: str
    sha256: str
    """Of the decoded picture before resizing."""


@dataclass(frozen=True)
class LeftOut:
    """A picture that was found but not packed."""

    image: SourceImage
    kind: str
    """`unreadable` or `duplicate`."""
    reason: str


def split(data: params.Data, project: Project) -> None:
    """Turn `project.raw` into packed arrays in `project.split`, with a summary beside the other reports.

    Raises:
        UserError: nothing to read, unreadable pictures (unless `data.on_bad_image` is `skip`), a pair table at odds
            with the files, pictures without a class where `data.labels` wants one, or too few different pictures in a
            domain.
    """
    if not project.raw.is_dir():
        what = "is not a folder" if project.raw.exists() else "does not exist"
        raise UserError(f"{project.raw} {what}; make it with 'dvc repro fetch'")
    # A killed fetch removes its leavings when it runs again, but DVC may bring its output from the run cache instead.
    remove_leftovers(project.raw)
    found = list_images(project.raw)
    table = _read_pairs(project.raw / "pairs.csv", found)
    labels = folder_labels(found) if data.labels == "folders" else None
    with replacing_folder(project.split) as folder:
        scratch = {domain: _scratch(folder / f"scratch{domain}", domain, found, data) for domain in DOMAINS}
        decoded, left_out = _decode_all(found, data, scratch)
        _refuse_bad(left_out, len({image.file for image in found}), data.on_bad_image)
        _refuse_sameness(decoded)
        assigned = _assign(decoded, table, data)
        decoded, duplicates = _drop_duplicates(decoded, assigned)
        left_out += duplicates
        manifest = _manifest(decoded, assigned)
        if labels is not None:
            manifest["label"] = manifest["file"].map(labels)
        _refuse_lack(manifest, Counter(out.image.domain for out in duplicates))
        _pack(manifest, decoded, scratch, folder)
        for domain in DOMAINS:
            (folder / f"scratch{domain}").unlink()
        pairs = _index_pairs(table, manifest)
        if data.load_size == "original":
            _refuse_unequal_pairs(pairs, manifest)
        _write_csv(folder / "manifest.csv", manifest)
        _write_csv(folder / "pairs.csv", pairs)
        columns = ["file", "domain", "kind", "reason"]
        rows = [(out.image.file, out.image.domain, out.kind, out.reason) for out in left_out]
        _write_csv(folder / "left_out.csv", pd.DataFrame(rows, columns=columns))
        files.write_json(project.reports / "split.json", _summary(manifest, pairs, left_out, data))


class Scratch(Protocol):
    """Where the decoded pictures of one domain lie until it is known which split they belong to."""

    def put(self, row: int, pixels: decoding.Pixels) -> None:
        """Keep `[H, W, C]` under a number. Called from several threads at once."""

    def pack(self, rows: list[int], target: Path) -> None:
        """Write an array with the pictures of these numbers, in this order."""


class ResizedScratch:
    """Pictures of one size: `[N, H, W, C]`."""

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
    """Pictures at their own sizes: `[pixels, C]`, in the order in which they come."""

    def __init__(self, path: Path, channels: int, kind: type) -> None:
        self.path, self.channels, self.kind = path, channels, kind
        self.places: dict[int, tuple[int, int]] = {}
        """First pixel and number of pixels of each picture."""
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


def _reserve(path: Path) -> None:
    """Claim a new file's space at once: on a full disk, writing to mapped memory ends the process without a word."""
    size = path.stat().st_size
    if size and hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None


def _scratch(path: Path, domain: Domain, found: list[SourceImage], data: params.Data) -> Scratch:
    kind = np.uint16 if data.bit_depth == 16 else np.uint8
    channels = data.channels_A if domain == "A" else data.channels_B
    if data.load_size == "original":
        return RaggedScratch(path, channels, kind)
    count = sum(image.domain == domain for image in found)
    return ResizedScratch(path, count, data.load_size, channels, kind)


def _decode_all(
    found: list[SourceImage], data: params.Data, scratch: dict[Domain, Scratch]
) -> tuple[list[Decoded], list[LeftOut]]:
    """Decode every file once, in parallel, into the scratch files; results come in the order of `found`."""
    rows: dict[Domain, int] = dict.fromkeys(DOMAINS, 0)
    by_file: dict[str, list[tuple[SourceImage, int]]] = {}
    for image in found:
        by_file.setdefault(image.file, []).append((image, rows[image.domain]))
        rows[image.domain] += 1
    channels: dict[Domain, int] = {"A": data.channels_A, "B": data.channels_B}

    def one_file(images: list[tuple[SourceImage, int]]) -> list[Decoded | LeftOut]:
        path = images[0][0].path
        try:
            picture = decoding.read(path, data.bit_depth)
            out: list[Decoded | LeftOut] = []
            for image, row in images:
                part = _part(picture.pixels, image.part)
                pixels = np.ascontiguousarray(decoding.to_channels(part, channels[image.domain]))
                digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode())
                digest.update(pixels.data)
                scratch[image.domain].put(row, pixels)
                height, width = pixels.shape[:2]
                out.append(Decoded(image, row, width, height, picture.mode, digest.hexdigest()))
            return out
        except decoding.BadImageError as error:
            return [LeftOut(image, "unreadable", str(error)) for image, _ in images]

    decoded: list[Decoded] = []
    left_out: list[LeftOut] = []
    # Pillow and hashlib release the interpreter's lock, so threads use all cores and share the arrays.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(one_file, by_file.values())
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


def _refuse_bad(left_out: list[LeftOut], total: int, on_bad_image: str) -> None:
    if not left_out or on_bad_image == "skip":
        return
    reasons = {out.image.file: out.reason for out in left_out}
    lines = [f"  {shown(file)} {shown(reason)}" for file, reason in sorted(reasons.items())]
    if len(lines) > NAMES_IN_MESSAGE:
        lines[NAMES_IN_MESSAGE:] = [f"  … and {len(lines) - NAMES_IN_MESSAGE} more"]
    raise UserError(
        f"{len(reasons)} of {total} pictures cannot be used; mend or remove them, or set data.on_bad_image: skip\n"
        + "\n".join(lines)
    )


def _refuse_sameness(decoded: list[Decoded]) -> None:
    for domain in DOMAINS:
        sums = [d.sha256 for d in decoded if d.image.domain == domain]
        if len(sums) > 1 and len(set(sums)) == 1:
            raise UserError(f"domain {domain}: all {len(sums)} pictures are identical; give it different pictures")


def _refuse_unequal_pairs(pairs: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """True pairs are compared pixel by pixel."""
    sizes = {
        (row.domain, row.split, row.index): f"{row.width}×{row.height}" for row in manifest.itertuples(index=False)
    }
    for pair in pairs.to_dict("records"):
        of_A, of_B = sizes["A", pair["split"], pair["index_A"]], sizes["B", pair["split"], pair["index_B"]]
        if of_A != of_B:
            raise UserError(
                f"{shown(pair['id_A'])} has {of_A} pixels, but its true partner {shown(pair['id_B'])} has {of_B}; "
                "pairs are compared pixel by pixel: give them one size, or set data.load_size to one"
            )


def _refuse_lack(manifest: pd.DataFrame, duplicates: Mapping[Domain, int]) -> None:
    """Every split needs a picture of every domain, and training needs two."""
    for domain in DOMAINS:
        for split, least, remedy in (
            ("train", 2, "add pictures"),
            ("val", 1, "add pictures, or raise data.val_fraction"),
            ("test", 1, "add pictures, or raise data.test_fraction"),
        ):
            count = int(((manifest["domain"] == domain) & (manifest["split"] == split)).sum())
            if count < least:
                total = int((manifest["domain"] == domain).sum())
                taken = duplicates.get(domain, 0)
                also = f" ({taken} more were left out, identical with pictures of val or test)" if taken else ""
                raise UserError(
                    f"domain {domain}: {count} of its {total} usable pictures are for {split}{also}, at least {least} "
                    f"{'is' if least == 1 else 'are'} needed; {remedy}"
                )


def _assign(decoded: list[Decoded], table: pd.DataFrame, data: params.Data) -> dict[Key, Split]:
    """Decide the split of every (domain, file).

    The source's own splits stand. Where a domain has no test (or val) pictures, units are taken out of its training
    pictures: a unit is one picture, a true pair, or a whole group of the pair table. Units are ordered by a hash of
    the seed and their first file, so that adding a picture moves few others.
    """
    assigned: dict[Key, Split] = {(d.image.domain, d.image.file): d.image.split for d in decoded}
    training = [key for key, split in assigned.items() if split == "train"]
    units = _units(training, table)
    units.sort(key=lambda unit: hashlib.sha256(f"{data.seed}\n{unit[0][1]}".encode()).digest())
    total = Counter(domain for domain, _ in training)
    taken: set[int] = set()
    fractions: list[tuple[Split, float]] = [("test", data.test_fraction), ("val", data.val_fraction)]
    for split, fraction in fractions:
        own = {domain for (domain, _), s in assigned.items() if s == split}
        wanted = {d: max(1, round(fraction * total[d])) for d in DOMAINS if d not in own and fraction > 0}
        for number, unit in enumerate(units):
            counts = Counter(domain for domain, _ in unit)
            if number in taken or not any(wanted.get(domain, 0) > 0 for domain in counts):
                continue
            taken.add(number)
            assigned |= dict.fromkeys(unit, split)
            for domain, count in counts.items():
                if domain in wanted:
                    wanted[domain] -= count
    return assigned


def _units(training: list[Key], table: pd.DataFrame) -> list[list[Key]]:
    """Training pictures that must stay together, each unit sorted: linked by a pair or by a group."""
    parent: dict[Key, Key] = {key: key for key in training}

    def root(key: Key) -> Key:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first_of_group: dict[str, Key] = {}
    for row in table.to_dict("records"):
        keys: list[Key] = [(domain, row[domain]) for domain in DOMAINS if (domain, row[domain]) in parent]
        if keys and row.get("group"):
            keys.append(first_of_group.setdefault(row["group"], keys[0]))
        for key in keys[1:]:
            parent[root(key)] = root(keys[0])
    units: dict[Key, list[Key]] = {}
    for key in sorted(training, key=lambda key: (key[1], key[0])):
        units.setdefault(root(key), []).append(key)
    return list(units.values())


def _drop_duplicates(decoded: list[Decoded], assigned: dict[Key, Split]) -> tuple[list[Decoded], list[LeftOut]]:
    """Take training pictures out whose decoded pixels also stand in val or test of their domain.

    Also those that were drawn into val while the same picture is in the test: val may steer the training. A source's
    own val and test are never touched.
    """
    held: dict[tuple[str, str], Decoded] = {}
    for d in sorted(decoded, key=lambda d: SPLITS.index(assigned[d.image.domain, d.image.file]), reverse=True):
        held.setdefault((d.image.domain, d.sha256), d)
    kept: list[Decoded] = []
    dropped: list[LeftOut] = []
    for d in decoded:
        split = assigned[d.image.domain, d.image.file]
        twin = held[d.image.domain, d.sha256].image
        if d.image.split == "train" and SPLITS.index(split) < SPLITS.index(assigned[twin.domain, twin.file]):
            dropped.append(LeftOut(d.image, "duplicate", f"identical with {twin.file}"))
        else:
            kept.append(d)
    return kept, dropped


def _manifest(decoded: list[Decoded], assigned: dict[Key, Split]) -> pd.DataFrame:
    """One row per packed picture, sorted by domain, split and file; its index labels are positions in `decoded`."""
    rows = [
        (i.id, i.domain, assigned[i.domain, i.file], 0, i.file, i.part, d.width, d.height, d.mode, d.sha256)
        for d in decoded
        for i in [d.image]
    ]
    table = pd.DataFrame(rows, columns=MANIFEST_COLUMNS)
    order = table.assign(split=table["split"].map(SPLITS.index)).sort_values(["domain", "split", "file"]).index
    table = table.loc[order]
    table["index"] = table.groupby(["domain", "split"]).cumcount()
    return table


def _pack(manifest: pd.DataFrame, decoded: list[Decoded], scratch: dict[Domain, Scratch], folder: Path) -> None:
    """Copy the pictures of each domain and split, in the manifest's order, into their own array."""
    for domain in DOMAINS:
        for split in SPLITS:
            chosen = manifest.index[(manifest["domain"] == domain) & (manifest["split"] == split)]
            scratch[domain].pack([decoded[position].row for position in chosen], folder / f"{split}{domain}.npy")


def _read_pairs(path: Path, found: list[SourceImage]) -> pd.DataFrame:
    """The pair table as text, with columns A, B and scored; for side-by-side pictures without one, every file pairs."""
    if not path.exists():
        both = sorted({image.file for image in found if image.part != "whole"})
        return pd.DataFrame({"A": both, "B": both, "scored": ["true"] * len(both)}, dtype=str)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable CSV table: {' '.join(str(error).split())}") from None
    missing = [column for column in DOMAINS if column not in table]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}: it needs A and B with paths relative to its folder")
    for domain in DOMAINS:
        named = table.loc[table[domain] != "", domain]
        known = {image.file for image in found if image.domain == domain}
        unknown = sorted(set(named) - known)
        if unknown:
            raise UserError(f"{path}: column {domain} names {unknown[0]!r}, which is no picture of domain {domain}")
        twice = sorted(set(named[named.duplicated()]))
        if twice:
            raise UserError(f"{path}: column {domain} names {twice[0]!r} twice; a picture has one partner")
    if "scored" not in table:
        table["scored"] = "true"
    table["scored"] = table["scored"].str.lower()
    wrong = sorted(set(table["scored"]) - {"true", "false"})
    if wrong:
        raise UserError(f"{path}: column scored holds {wrong[0]!r}; it must be true or false")
    return table


def _index_pairs(table: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the pair table whose both pictures were packed into one split, as positions in the packed arrays."""
    place = {(row.domain, row.file): row for row in manifest.itertuples()}
    rows: list[dict[str, Any]] = []
    carried = [column for column in table if column not in ("A", "B", *PAIR_COLUMNS)]
    for source in table.to_dict("records"):
        a, b = place.get(("A", source["A"])), place.get(("B", source["B"]))
        if a is None or b is None or str(a.split) != str(b.split):
            continue
        values = (a.split, a.index, b.index, a.id, b.id, source["scored"])
        rows.append(dict(zip(PAIR_COLUMNS, values, strict=True)) | {str(column): source[column] for column in carried})
    pairs = pd.DataFrame(rows, columns=[*PAIR_COLUMNS, *carried])
    order = pairs.assign(split=pairs["split"].map(SPLITS.index)).sort_values(["split", "index_A"]).index
    return pairs.loc[order]


def _summary(manifest: pd.DataFrame, pairs: pd.DataFrame, left_out: list[LeftOut], data: params.Data) -> dict[str, Any]:
    def sizes(rows: pd.DataFrame) -> dict[str, Any]:
        classes = {"classes": dict(sorted(Counter(rows["label"]).items()))} if "label" in rows else {}
        return {
            "counts": {split: int((rows["split"] == split).sum()) for split in SPLITS},
            "smallest": f"{rows['width'].min()}x{rows['height'].min()}",
            "largest": f"{rows['width'].max()}x{rows['height'].max()}",
            "modes": {mode: int(n) for mode, n in sorted(Counter(rows["mode"]).items())},
            **classes,
        }

    def named(kind: str) -> dict[str, Any]:
        of_kind = {out.image.file: out.reason for out in left_out if out.kind == kind}
        return {"count": len(of_kind), "first": dict(sorted(of_kind.items())[:NAMES_IN_SUMMARY])}

    return {
        **{domain: sizes(manifest[manifest["domain"] == domain]) for domain in DOMAINS},
        "pairs": {split: int((pairs["split"] == split).sum()) for split in SPLITS},
        "scored_pairs": {s: int(((pairs["split"] == s) & (pairs["scored"] == "true")).sum()) for s in SPLITS},
        "load_size": "original" if data.load_size == "original" else f"{data.load_size[1]}x{data.load_size[0]}",
        "unreadable": named("unreadable"),
        "duplicates_taken_out_of_train": named("duplicate"),
    }


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    # Text is always quoted: a lone carriage return in a file name would else end its row.
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", quoting=csv.QUOTE_NONNUMERIC)
