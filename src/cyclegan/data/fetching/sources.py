"""The public data sets of the CycleGAN and pix2pix papers."""

from __future__ import annotations

import difflib

from cyclegan.system.errors import UserError

HOST = "https://efrosgans.eecs.berkeley.edu"
CYCLEGAN = (
    "ae_photos",
    "apple2orange",
    "cezanne2photo",
    "facades",
    "horse2zebra",
    "iphone2dslr_flower",
    "maps",
    "monet2photo",
    "summer2winter_yosemite",
    "ukiyoe2photo",
    "vangogh2photo",
)
PIX2PIX = ("edges2handbags", "edges2shoes", "night2day")

PUBLIC: dict[str, str] = {
    **{name: f"{HOST}/cyclegan/datasets/{name}.zip" for name in CYCLEGAN},
    **{name: f"{HOST}/pix2pix/datasets/{name}.tar.gz" for name in PIX2PIX},
}
"""Name → address. `maps` and `facades` are the archives of the CycleGAN paper, with its test split."""


def public_url(name: str) -> str:
    """The address of a public set.

    Raises:
        UserError: the name is unknown, or the set may not be redistributed.
    """
    if name in PUBLIC:
        return PUBLIC[name]
    if name.startswith("cityscapes"):
        raise UserError(
            "data.source = 'cityscapes': its license forbids redistribution; download it from "
            "cityscapes-dataset.com and use data.source: folders"
        )
    known = ["fluent-emoji", "folders", *PUBLIC]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}."
    raise UserError(f"data.source = {name!r}: unknown source; {hint} An archive starts with file: or https:")
