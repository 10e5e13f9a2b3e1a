"""The metrics that DVC's tables show."""

from __future__ import annotations

from typing import Any

import pytest

from cyclegan.params import flatten
from cyclegan.stages.evaluate import main_metrics

KID = {"kid": -0.000226221, "kid_se": 0.00765}
PAIRS = {"pair_psnr": 21.6662601579, "pair_ssim": 0.7824275653}
LABELS = {"transfer_accuracy": 0.912349}
SHOWN = {"AtoB.kid": -0.00023, "AtoB.kid_se": 0.00765}
SHOWN_PAIRS = {"AtoB.psnr": 21.66626, "AtoB.ssim": 0.78243}


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        ({"identity": KID | PAIRS} | KID | PAIRS, SHOWN | SHOWN_PAIRS | {"base.psnr": 21.66626, "base.kid": -0.00023}),
        (KID | PAIRS | LABELS, SHOWN | {"AtoB.psnr": 21.66626, "AtoB.acc": 0.91235}),
        (KID | LABELS | {"identity": KID}, SHOWN | {"AtoB.acc": 0.91235, "AtoB.cycle_l1": 0.5, "base.kid": -0.00023}),
        ({}, {"AtoB.cycle_l1": 0.5}),
    ],
    ids=["pairs", "pairs and labels", "labels", "one image"],
)
def test_dvc_shows_what_the_data_allows(measured: dict[str, Any], shown: dict[str, float]) -> None:
    direction = {"n": 3, "cycle_l1": 0.5, "frechet": 1.0, "color_map": {"kid": 1.0}} | measured
    found = dict(flatten(main_metrics({"AtoB": direction, "BtoA": direction, "protocol": {"version": 1}})))
    assert found == shown | {key.replace("AtoB", "BtoA"): value for key, value in shown.items()}
    assert len(found) <= 14
    # The table of `dvc metrics show`: each column is four characters wider than its name.
    assert len("reports/evaluate/metrics.json") + sum(4 + len(key) for key in found) <= 160
