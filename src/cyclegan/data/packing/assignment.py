"""Which image is trained on, which steers the training, and which is only measured on at the end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from cyclegan import params
from cyclegan.data.packing.decoding import Decoded, LeftOut
from cyclegan.domains import DOMAINS, SPLITS, Domain, Split

Key = tuple[Domain, str]
"""An image: domain and file. A file with a pair side by side is two images."""


def assign(decoded: list[Decoded], table: pd.DataFrame, data: params.Data) -> dict[Key, Split]:
    """Decide the split of every (domain, file).

    The source's own splits stand. Where a domain has no test (or val) images, units are taken out of its training
    images: a unit is one image, a true pair, or a whole group of the pair table. Units are ordered by a hash of
    the seed and their first file, so that adding an image moves few others. One that is larger than the whole split
    is only taken where there is nothing else.
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
    """Take training images out whose decoded pixels also stand in val or test of their domain.

    Also those that were drawn into val while the same image is in the test: val may steer the training. A source's
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


def _oversize(unit: list[Key], wanted: Mapping[Domain, int]) -> int:
    """Size of a unit with more images than are wanted; 0 for every other."""
    counts = Counter(domain for domain, _ in unit)
    return len(unit) if any(counts[domain] > count for domain, count in wanted.items()) else 0


def _units(training: list[Key], table: pd.DataFrame) -> list[list[Key]]:
    """Training images that must stay together, each unit sorted: linked by a pair or by a group."""
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
