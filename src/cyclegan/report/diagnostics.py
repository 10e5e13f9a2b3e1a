"""Diagnosis of common faults. Each finding states its measurement and threshold.

A warning is a reason to look at the images, not a verdict. The absence of warnings proves no quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cyclegan.domains import DOMAINS, PLAIN_NAMES, DomainNames

# A generator has almost no effect if L1 between output and input (0…1) is below this.
SMALL_CHANGE = 0.01
# Colors are inverted if the brightness of output and input correlates below this.
INVERTED = -0.2
# Many outputs look alike if their diversity, as a share of that of real images, is below this.
COLLAPSED = 0.5
# The input is ignored if outputs find it less often than this multiple of chance.
CHANCE = 3
# A pattern is visible if its energy at the stride frequencies exceeds this multiple of that of real images.
CHECKERBOARD = 3.0
# Sets of fewer images of a domain differ by chance.
FEWEST_FOR_SETS = 4
# With this many images of the source, `CHANCE` times chance is at most one half.
FEWEST_FOR_CHANCE = 2 * CHANCE
# A discriminator has won if its output exceeds this for real images, and is below 1 minus this for translations.
WON = 0.9
# A discriminator has lost if its outputs for real images and translations differ by less than this.
LOST = 0.05
# The discriminators are judged over this last share of the training.
LAST = 0.1


@dataclass(frozen=True)
class Finding:
    """The result of looking for one fault.

    Attributes:
        name: name of the fault.
        is_fault: whether the generator has it.
        text: the measurement and the threshold, in words; for a fault also its meaning and remedy.
        advice: meaning and remedy alone; empty without a fault.
    """

    name: str
    is_fault: bool
    text: str
    advice: str = ""


def diagnose(metrics: Mapping[str, Any], source: str, target: str, fewest: int) -> list[Finding]:
    """Look for the common faults of a generator in its metrics.

    Args:
        metrics: those of one direction, from `protocol.evaluate`; a fault without its metric is skipped.
        source, target: names of the domains.
        fewest: number of images of the smaller domain; faults that need more images are skipped.
    """
    findings = [
        _barely_changes(metrics),
        _ignores_input(metrics, source),
        _inverts_colors(metrics),
        _collapses(metrics, target, fewest),
        _has_checkerboard(metrics, target, fewest),
    ]
    return [finding for finding in findings if finding is not None]


def _barely_changes(metrics: Mapping[str, Any]) -> Finding | None:
    if (change := metrics.get("change_l1")) is None:
        return None
    return _finding(
        "output equals input",
        change < SMALL_CHANGE,
        f"output and input differ by {change:.2%} of the range on average; under {SMALL_CHANGE:.0%} is a warning",
        means="The output is almost the input",
        remedy="Lower the weights of the identity and cycle losses.",
    )


def _ignores_input(metrics: Mapping[str, Any], source: str) -> Finding | None:
    input_top1 = metrics.get("input_top1")
    if input_top1 is None or metrics["n"] < FEWEST_FOR_CHANCE:
        return None
    chance = CHANCE / metrics["n"]
    return _finding(
        "input ignored",
        input_top1 < chance,
        f"{input_top1:.0%} of the outputs are closer to their own input than to any other image of "
        f"{source}; under {chance:.0%}, {CHANCE} times chance, is a warning",
        means="The output does not depend on the input",
        remedy="Raise the weights of the cycle losses.",
    )


def _inverts_colors(metrics: Mapping[str, Any]) -> Finding | None:
    if (correlation := metrics.get("luminance_correlation")) is None:
        return None
    return _finding(
        "colors inverted",
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
        "mode collapse",
        diversity < COLLAPSED,
        f"outputs differ from each other by {diversity:.0%} of the difference between real images of {target}; "
        f"under {COLLAPSED:.0%} is a warning",
        means="Many outputs look alike",
        remedy="Raise the weights of the cycle losses.",
    )


def _has_checkerboard(metrics: Mapping[str, Any], target: str, fewest: int) -> Finding | None:
    pattern = metrics.get("checkerboard")
    if pattern is None or fewest < FEWEST_FOR_SETS:
        return None
    return _finding(
        "checkerboard",
        pattern > CHECKERBOARD,
        f"patterns that repeat every 2 or 4 pixels have {pattern:.1f} times the energy of those in real "
        f"images of {target}; over {CHECKERBOARD:.0f} is a warning",
        means="The output has a checkerboard pattern",
        remedy="Use model.upsample: resize.",
    )


def _finding(name: str, is_fault: bool, measured: str, *, means: str, remedy: str) -> Finding:
    """A finding whose text is the measurement, and for a fault also its meaning and remedy."""
    if not is_fault:
        return Finding(name, is_fault, measured)
    return Finding(name, is_fault, f"{means}: {measured}. {remedy}", f"{means}. {remedy}")


def diagnose_discriminators(
    losses: pd.DataFrame, adversarial_loss: str, names: DomainNames = PLAIN_NAMES
) -> list[Finding]:
    """Check whether a discriminator has won or lost at the end of the training.

    Args:
        losses: columns `D_A/output_real`, `D_A/output_fake` and those of `D_B`, oldest first.
        adversarial_loss: only `least_squares` is judged; its outputs are near 1 for real and 0 for fake.
        names: of the domains.
    """
    outputs = [f"{name}/output_{kind}" for name in ("D_A", "D_B") for kind in ("real", "fake")]
    if adversarial_loss != "least_squares" or not set(outputs) <= set(losses):
        return []
    known = losses[outputs].dropna()
    if known.empty:
        return []
    means = known.tail(max(1, round(LAST * len(known)))).mean()
    findings = []
    for domain in DOMAINS:
        name = f"D_{names.of(domain)}"
        real, fake = (float(means[f"D_{domain}/output_{kind}"]) for kind in ("real", "fake"))
        text = (
            f"over the last {LAST:.0%} of the training {name} gave real images {real:.2f} and translations {fake:.2f}"
        )
        won, lost = real > WON and fake < 1 - WON, real - fake < LOST
        if won:
            findings.append(
                _finding(
                    f"{name} won",
                    True,
                    f"{text}; over {WON} and under {1 - WON:.1f} is a warning",
                    means=f"{name} has won, so its generator learns little from it",
                    remedy="Use train.label_smoothing, train.diff_augment or a smaller model.discriminator_filters.",
                )
            )
        elif lost:
            findings.append(
                _finding(
                    f"{name} lost",
                    True,
                    f"{text}; a difference under {LOST} is a warning",
                    means=f"{name} does not distinguish real images from translations",
                    remedy="The discriminator is probably too weak.",
                )
            )
        else:
            limits = f"over {WON} and under {1 - WON:.1f}, or a difference under {LOST}, is a warning"
            findings.append(Finding(name, False, f"{text}; {limits}"))
    return findings
