"""Each stage refuses a search whose space cannot work, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refusals import SPACE, Facts, Spoil, set_params

REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    **{
        f"{stage} before a search of what a U-Net has not": (
            stage,
            set_params(
                model={"generator": "unet", "blocks": "auto"},
                search={"trials": 2, "space": {**SPACE, "blocks": {"low": 1, "high": 2}}},
            ),
            ["search.space.blocks", "model.generator", "resnet", "unet", "null"],
        )
        for stage in ("fetch", "split", "train", "evaluate", "register")
    },
    "fetch before a search whose choices cannot work": (
        "fetch",
        set_params(search={"trials": 2, "space": {**SPACE, "norm": ["instance", "none"]}}, model={"output_norm": True}),
        ["search.space", "norm = none", "model.output_norm", "model.norm", "false"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_search_space_is_refused(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])
