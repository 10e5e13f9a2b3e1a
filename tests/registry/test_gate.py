"""The rule of the gate, on metrics with a known decision."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan.metric_names import headline, higher_is_better
from cyclegan.registry.gate import choose_metric, decide
from cyclegan.registry.measurements import Measured
from cyclegan.system.errors import UserError
from refusals import holds

PROTOCOL = {"version": 1, "split": "test", "md5": "aa"}


def measured(values: dict[str, list[float]], **more: object) -> Measured:
    table = pd.DataFrame({"domain": "A", "id": [str(n) for n in range(len(next(iter(values.values()))))]})
    table["scored"] = True
    table = table.assign(**values)
    metrics = {name: float(np.mean(column)) for name, column in values.items() if not name.startswith("baseline_")}
    identity = {name.removeprefix("baseline_"): float(np.mean(column)) for name, column in values.items()
                if name.startswith("baseline_")}  # fmt: skip
    return Measured(metrics, identity, {**PROTOCOL, **more}, table)


def test_names_determine_which_way_is_better() -> None:
    assert [higher_is_better(name) for name in ("pair_psnr", "cycle_l1", "identity_ssim", "change_l1", "pair_n")] == [
        True, False, True, None, None,
    ]  # fmt: skip
    assert headline(["cycle_l1", "pair_psnr", "pair_l1"]) == "pair_psnr"
    assert headline(["cycle_psnr", "cycle_l1", "kid", "identity_l1"]) == "kid"
    assert headline(["cycle_psnr", "cycle_l1", "identity_l1"]) == "cycle_l1"


def test_paired_differences_reveal_what_the_spread_of_the_images_hides() -> None:
    """Images differ by 10 dB, the two models by 0.1 dB on each of them: the difference is certain."""
    easy_and_hard = list(np.linspace(15, 25, 20))
    champion = measured({"pair_psnr": easy_and_hard})
    better = measured({"pair_psnr": [value + 0.1 + 0.01 * (-1) ** n for n, value in enumerate(easy_and_hard)]})
    decision = decide("pair_psnr", better, champion, "3")
    assert decision.promote
    assert decision.gain == pytest.approx(0.1)
    assert decision.standard_error == pytest.approx(0.01 * math.sqrt(20 / 19) / math.sqrt(20))
    assert decision.images == 20
    assert decision.reason.startswith("pair_psnr 20.1")
    assert all(fact in decision.reason for fact in ("better", "champion", "version 3", "+0.1 ± 0.0023"))
    assert not decide("pair_psnr", champion, better, "4").promote


@pytest.mark.parametrize(
    ("counts", "message"), [({"A": 1, "B": 5}, "1 test image: no KID (needs 2)"), ({"A": 2, "B": 2}, "")]
)
def test_too_few_images_are_named_rather_than_the_metric(counts: dict[str, int], message: str) -> None:
    candidate = measured({"cycle_l1": [0.1]}, counts=counts)
    decision = decide("cycle_l1", candidate)
    assert not decision.promote
    assert decision.reason.startswith(message or "cycle_l1 has no baseline")
    with pytest.raises(UserError) as refused:
        choose_metric("kid", "AtoB", candidate)
    assert str(refused.value).endswith(f"({message})" if message else "cycle_l1")


def test_a_difference_within_its_standard_error_changes_nothing() -> None:
    champion = measured({"pair_psnr": [20.0, 20.0, 20.0, 20.0]})
    decision = decide("pair_psnr", measured({"pair_psnr": [22.0, 18.0, 22.0, 18.4]}), champion, "1")
    assert decision.gain == pytest.approx(0.1)
    assert not decision.promote
    assert "not better" in decision.reason
    assert "version 1" in decision.reason
    assert "standard error" in decision.reason
    below = decide("pair_psnr", measured({"pair_psnr": [22.0, 18.0, 21.6, 18.0]}), champion, "1")
    assert below.gain == pytest.approx(-0.1)
    assert "not better" in below.reason
    assert "worse" not in below.reason


def test_a_lower_error_is_better() -> None:
    few, many = measured({"cycle_l1": [0.1, 0.11]}), measured({"cycle_l1": [0.2, 0.22]})
    assert decide("cycle_l1", few, many, "1").promote
    assert decide("cycle_l1", many, few, "1").gain == pytest.approx(-0.105)
    assert not decide("cycle_l1", many, few, "1").promote


def test_equal_generators_and_a_single_image_are_no_reason() -> None:
    same = measured({"pair_psnr": [20.0, 21.0]})
    assert not decide("pair_psnr", same, same, "1").promote
    one, other = measured({"pair_psnr": [20.0]}), measured({"pair_psnr": [30.0]})
    decision = decide("pair_psnr", other, one, "1")
    assert not decision.promote
    assert decision.standard_error is None
    assert decision.reason.endswith("(+10, no standard error from 1 image)")
    assert "worse" not in decide("pair_psnr", one, other, "1").reason


def test_first_version_must_beat_the_identity_baseline() -> None:
    values = {"pair_psnr": [20.0, 21.0, 22.5]}
    better = decide("pair_psnr", measured(values | {"baseline_pair_psnr": [19.0, 20.0, 21.0]}))
    assert better.promote
    assert better.against == 20
    worse = decide("pair_psnr", measured(values | {"baseline_pair_psnr": [20.5, 21.5, 22.9]}))
    assert not worse.promote
    assert "identity baseline" in worse.reason
    assert "not better" in worse.reason
    none = decide("cycle_l1", measured({"cycle_l1": [0.1, 0.2]}))
    assert not none.promote
    assert "no baseline" in none.reason


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"md5": "bb"}, "another test split (md5 bb, now aa)"),
        ({"md5": None}, "another test split (md5 unknown, now aa)"),
        ({"version": 2}, "another protocol (different: version)"),
        ({"features": "other"}, "another protocol (different: features)"),
    ],
)
def test_other_images_or_another_protocol_are_never_compared(protocol: dict[str, object], message: str) -> None:
    candidate = measured({"pair_psnr": [30.0, 31.0]})
    decision = decide("pair_psnr", candidate, measured({"pair_psnr": [20.0, 21.0]}, **protocol), "7")
    assert not decision.promote
    assert message in decision.reason
    assert "version 7" in decision.reason


def test_a_certain_but_tiny_gain_over_the_identity_baseline_makes_no_champion() -> None:
    images = list(np.linspace(15, 25, 20))
    first = measured({"pair_psnr": [value + 1e-5 for value in images], "baseline_pair_psnr": images})
    decision = decide("pair_psnr", first)
    assert not decision.promote
    assert all(fact in decision.reason for fact in ("pair_psnr 20", "thousandth", "+1e-05 "))
    enough = measured({"pair_psnr": [value + 0.03 for value in images], "baseline_pair_psnr": images})
    assert decide("pair_psnr", enough).promote


def test_too_few_images_for_a_standard_error_are_reported_with_the_remedy() -> None:
    here = Measured({"kid": 1.051}, {"kid": 1.2}, {**PROTOCOL, "counts": {"A": 3, "B": 5}}, pd.DataFrame())
    there = Measured({"kid": 1.075}, {"kid": 1.2}, here.protocol, pd.DataFrame())
    why = ("domain A", 3, "test split", "standard error", 4, "data.test_fraction")
    alone, compared = decide("kid", here), decide("kid", here, there, "2")
    assert not compared.promote
    for decision, facts in (
        (alone, ("kid", "1.051", "1.2", *why)),
        (compared, ("kid", "1.051", "1.075", "champion", "version 2", *why)),
    ):
        assert [fact for fact in facts if not holds(decision.reason, fact)] == [], decision.reason


def test_metrics_without_values_per_image_use_their_own_errors() -> None:
    def with_ssim(value: float, error: float) -> Measured:
        plain = measured({"cycle_l1": [0.1, 0.2]})
        return Measured({**plain.metrics, "set_ssim": value, "set_ssim_se": error}, {}, PROTOCOL, plain.per_image)

    champion = with_ssim(0.5, 0.03)
    assert choose_metric("set_ssim", "AtoB", champion) == "set_ssim"
    assert decide("set_ssim", with_ssim(0.56, 0.04), champion, "1").promote
    decision = decide("set_ssim", with_ssim(0.54, 0.04), champion, "1")
    assert not decision.promote
    assert decision.standard_error == pytest.approx(0.05)
    assert decision.images is None


def test_a_gate_that_is_not_measured_names_those_that_are() -> None:
    found = measured({"pair_psnr": [20.0], "cycle_l1": [0.1], "change_l1": [0.1]})
    assert choose_metric("auto", "AtoB", found) == "pair_psnr"
    assert choose_metric("cycle_l1", "AtoB", found) == "cycle_l1"
    for wrong in ("pair_psrn", "change_l1"):
        with pytest.raises(UserError, match=rf"registry.gate = '{wrong}'.*auto.* cycle_l1, pair_psnr$"):
            choose_metric(wrong, "AtoB", found)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(10, 40), st.floats(10, 40)), min_size=2, max_size=12))
def test_two_generators_never_both_beat_each_other(pairs: list[tuple[float, float]]) -> None:
    one, other = (measured({"pair_psnr": list(values)}) for values in zip(*pairs, strict=True))
    first, second = decide("pair_psnr", one, other, "1"), decide("pair_psnr", other, one, "1")
    assert not (first.promote and second.promote)
    assert first.gain == pytest.approx(-second.gain)
