"""The class of an image, from its folder: `trainA/7/0001.png` has class `7`.

Labels are used for metrics only, never for training.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from cyclegan.data.images.layout import SourceImage, shown
from cyclegan.domains import DIRECTIONS, Domain
from cyclegan.system.errors import UserError

NAMES_IN_MESSAGE = 5
REMEDY = "or set data.labels: none"


def folder_labels(images: Sequence[SourceImage]) -> dict[str, str]:
    """Map each file to its class: the name of the first folder inside the domain's folder.

    Raises:
        UserError: an image is in no class folder, there is only one class, or one domain lacks a class of the other.
    """
    loose = [image.file for image in images if image.file.count("/") < 2]
    if loose:
        raise UserError(
            f"data.labels: folders, but {len(loose)} of {len(images)} images are in no class folder: {_some(loose)}; "
            f"move them to folders such as trainA/CLASS/, {REMEDY}"
        )
    # Compose accents: macOS decomposes them, and the other domain may come from another system.
    labels = {image.file: unicodedata.normalize("NFC", image.file.split("/")[1]) for image in images}
    found: dict[Domain, set[str]] = defaultdict(set)
    for image in images:
        found[image.domain].add(labels[image.file])
    for domain, other in DIRECTIONS.values():
        lacking = sorted(found[domain] - found[other])
        if lacking:
            raise UserError(
                f"data.labels: folders, but domain {other} lacks {len(lacking)} of the {len(found[domain])} classes of "
                f"domain {domain}: {_some(lacking)}; give both domains the same classes, {REMEDY}"
            )
    if len(found["A"]) < 2:
        raise UserError(
            f"data.labels: folders, but all images are of one class, {_some(found['A'])}; add images of two classes, "
            f"{REMEDY}"
        )
    return labels


def _some(names: Sequence[str] | set[str]) -> str:
    first = [shown(name) for name in sorted(names)[:NAMES_IN_MESSAGE]]
    return ", ".join(first) + (", …" if len(names) > NAMES_IN_MESSAGE else "")
