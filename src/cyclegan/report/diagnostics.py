"""What usually goes wrong, looked for and told in plain words. Each finding states its measurement and its threshold.

A warning is a reason to look at the images, not a verdict; no warning is no proof of quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

SMALL_CHANGE = 0.01
"""L1 between output and input, 0…1, under which a generator does next to nothing."""
INVERTED = -0.2
"""Correlation of brightness between output and input under which bright has become dark."""
COLLAPSED = 0.5
"""Diversity of the outputs, as a share of that of real images, under which many outputs look alike."""
CHANCE = 3
"""An input that its output does not find more often than this many times by chance has been ignored."""
CHECKERBOARD = 3.0
"""Energy at the stride frequencies, as a multiple of that of real images, from which a pattern stands out."""
FEWEST_FOR_SETS = 4
"""Images of each domain from which outputs as a set can be judged: fewer differ by chance."""
FEWEST_FOR_CHANCE = 2 * CHANCE
"""Images of the source from which `CHANCE` times chance is at most a half."""
WON = 0.9
"""A discriminator that gives real images more than this, and translations less than 1 minus this, has won."""
LOST = 0.05
"""A discriminator whose answers to real images and to translations differ by less than this has lost."""
LAST = 0.1
"""The share of the training, at its end, over which the discriminators are judged."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        name: of what was looked for.
        found: whether it is there.
        text: in words, with the measurement and the threshold.
    """

    name: str
    found: bool
    text: str


def diagnose(metrics: Mapping[str, Any], source: str, target: str, fewest: int) -> list[Finding]:
    """Look for a generator's usual faults in its metrics.

    Args:
        metrics: of one direction, from `protocol.evaluate`; what is missing is not looked for.
        source, target: names of the domains.
        fewest: images of the smaller domain; faults that need more images are not looked for.
    """
    findings = [
        _does_nothing(metrics),
        _ignores_the_input(metrics, source),
        _inverts_colors(metrics),
        _collapses(metrics, target, fewest),
        _leaves_a_checkerboard(metrics, target, fewest),
    ]
    return [finding for finding in findings if finding is not None]


def _does_nothing(metrics: Mapping[str, Any]) -> Finding | None:
    if (change := metrics.get("change_l1")) is None:
        return None
    return _finding(
        "does nothing",
        change < SMALL_CHANGE,
        f"output and input differ by {change:.2%} of the range on average; under {SMALL_CHANGE:.0%} is a warning",
        means="The output is almost the input",
        remedy="Lower the weights of the identity and cycle losses.",
    )


def _ignores_the_input(metrics: Mapping[str, Any], source: str) -> Finding | None:
    input_top1 = metrics.get("input_top1")
    if input_top1 is None or metrics["n"] < FEWEST_FOR_CHANCE:
        return None
    chance = CHANCE / metrics["n"]
    return _finding(
        "ignores the input",
        input_top1 < chance,
        f"{input_top1:.0%} of the outputs are more like their own input than like any other image of "
        f"{source}; under {chance:.0%}, {CHANCE} times chance, is a warning",
        means="The output does not depend on the input",
        remedy="Raise the weights of the cycle losses.",
    )


def _inverts_colors(metrics: Mapping[str, Any]) -> Finding | None:
    if (correlation := metrics.get("luminance_correlation")) is None:
        return None
    return _finding(
        "inverts colors",
        correlation < INVERTED,
        f"the brightness of output and input correlates with {correlation:.2f}; under {INVERTED} is a warning",
        means="Colors are inverted",
        remedy="Raise train.loss_weights.identity, or start with another seed.",
    )


def _collapses(metrics: Mapping[str, Any], target: str, fewest: int) -> Finding | None:
    diversity = metrics.get("diversity")
    if diversity is None or fewest < FEWEST_FOR_SETS:
        return None
    return _finding(
        "collapses",
        diversity < COLLAPSED,
        f"outputs differ from each other by {diversity:.0%} of what real images of {target} do; "
        f"under {COLLAPSED:.0%} is a warning",
        means="Many outputs look alike (mode collapse)",
        remedy="Raise the weights of the cycle losses.",
    )


def _leaves_a_checkerboard(metrics: Mapping[str, Any], target: str, fewest: int) -> Finding | None:
    pattern = metrics.get("checkerboard")
    if pattern is None or fewest < FEWEST_FOR_SETS:
        return None
    return _finding(
        "leaves a checkerboard",
        pattern > CHECKERBOARD,
        f"patterns that repeat every 2 or 4 pixels have {pattern:.1f} times the energy that they have in real "
        f"images of {target}; over {CHECKERBOARD:.0f} is a warning",
        means="A checkerboard lies over the output",
        remedy="Use model.upsample: resize.",
    )


def _finding(name: str, found: bool, measured: str, *, means: str, remedy: str) -> Finding:
    """What was measured, and if it is a warning what that means and what to do."""
    return Finding(name, found, f"{means}: {measured}. {remedy}" if found else measured)


def diagnose_discriminators(losses: pd.DataFrame, adversarial_loss: str) -> list[Finding]:
    """Look at who won at the end of the training.

    Args:
        losses: columns `D_A/output_real`, `D_A/output_fake` and those of D_B, oldest first.
        adversarial_loss: only `least_squares`, whose outputs are near 1 for real and 0 for fake, can be judged.
    """
    outputs = [f"{name}/output_{kind}" for name in ("D_A", "D_B") for kind in ("real", "fake")]
    if adversarial_loss != "least_squares" or not set(outputs) <= set(losses):
        return []
    known = losses[outputs].dropna()
    if known.empty:
        return []
    means = known.tail(max(1, round(LAST * len(known)))).mean()
    findings = []
    for name in ("D_A", "D_B"):
        real, fake = float(means[f"{name}/output_real"]), float(means[f"{name}/output_fake"])
        text = (
            f"over the last {LAST:.0%} of the training {name} gave real images {real:.2f} and translations {fake:.2f}"
        )
        won, lost = real > WON and fake < 1 - WON, real - fake < LOST
        if won:
            text = (
                f"{name} has won and its generator learns little from it: {text}; over {WON} and under {1 - WON:.1f} "
                "is a warning. Use train.label_smoothing, train.diff_augment or a smaller model.discriminator_filters."
            )
        elif lost:
            text = (
                f"{name} tells nothing apart: {text}; a difference under {LOST} is a warning. Usually the "
                "discriminator is too weak; rarely the translations are perfect."
            )
        else:
            text = f"{text}; over {WON} and under {1 - WON:.1f}, or a difference under {LOST}, is a warning"
        findings.append(Finding(f"{name} {'lost' if lost else 'won'}" if won or lost else name, won or lost, text))
    return findings
