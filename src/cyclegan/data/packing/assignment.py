"""Assign images to the splits train, val and test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from cyclegan import params
from cyclegan.data.packing.decoding import Decoded, LeftOut
from cyclegan.domains import DOMAINS, SPLITS, Domain, Split

Key = tuple[Domain, str]
"""Domain and file of an image. A file with a pair side by side is two images."""


def assign(decoded: list[Decoded], table: pd.DataFrame, data: params.Data) -> dict[Key, Split]:
    """Decide the split of every (domain, file).

    The source's own splits are kept. If a domain has no test or val images, units of its training images are moved
    there. A unit is one image, a true pair, or a group of the pair table. Units are ordered by a hash of the seed and
    their first file: an additional image moves few others. A unit larger than the split is used last.
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
        for number in sorted(range(len(units)), key=lambda number: _oversize(units[number], wanted)):
            unit = units[number]
            counts = Counter(domain for domain, _ in unit)
            if number in taken or not any(wanted.get(domain, 0) > 0 for domain in counts):
                continue
            taken.add(number)
            assigned |= dict.fromkeys(unit, split)
            for domain, count in counts.items():
                if domain in wanted:
                    wanted[domain] -= count
    return assigned


def drop_duplicates(decoded: list[Decoded], assigned: dict[Key, Split]) -> tuple[list[Decoded], list[LeftOut]]:
    """Drop training images whose decoded pixels are also in val or test of their domain.

    Images that were moved to val are also dropped if they are in test, because val may influence the training. The
    source's own val and test images are always kept.
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


def _oversize(unit: list[Key], wanted: Mapping[Domain, int]) -> int:
    """Size of a unit that has more images than wanted; else 0."""
    counts = Counter(domain for domain, _ in unit)
    return len(unit) if any(counts[domain] > count for domain, count in wanted.items()) else 0


def _units(training: list[Key], table: pd.DataFrame) -> list[list[Key]]:
    """Sorted units of training images that a pair or a group links; they must stay together."""
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
