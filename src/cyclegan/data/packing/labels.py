"""Which class an image belongs to, by the folder that it lies in: `trainA/7/0001.png` shows a `7`.

Labels measure and do nothing else: no training sees them.
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
    """File → class: the name of the first folder inside a domain's own.

    Raises:
        UserError: an image lies in no such folder, there is only one, or one domain has a class that the other lacks.
    """
    loose = [image.file for image in images if image.file.count("/") < 2]
    if loose:
        raise UserError(
            f"data.labels: folders, but {len(loose)} of {len(images)} images lie in no class's folder, as "
            f"trainA/CLASS/image.png does: {_some(loose)}; move them into one, {REMEDY}"
        )
    # Composed: macOS decomposes accents, and one class may have come from there in one domain only.
    labels = {image.file: unicodedata.normalize("NFC", image.file.split("/")[1]) for image in images}
    found: dict[Domain, set[str]] = defaultdict(set)
    for image in images:
        found[image.domain].add(labels[image.file])
    for domain, other in DIRECTIONS.values():
        lacking = sorted(found[domain] - found[other])
        if lacking:
            raise UserError(
                f"data.labels: folders, but domain {other} lacks {len(lacking)} of the {len(found[domain])} classes of "
                f"domain {domain}: {_some(lacking)}; give both domains the same ones, {REMEDY}"
            )
    if len(found["A"]) < 2:
        raise UserError(
            f"data.labels: folders, but all images are of one class, {_some(found['A'])}; a classifier needs two, "
            f"{REMEDY}"
        )
    return labels


def _some(names: Sequence[str] | set[str]) -> str:
    first = [shown(name) for name in sorted(names)[:NAMES_IN_MESSAGE]]
    return ", ".join(first) + (", …" if len(names) > NAMES_IN_MESSAGE else "")
