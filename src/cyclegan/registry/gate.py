"""The gate: whether a new version is better than the champion, or than doing nothing where there is none yet."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from cyclegan.domains import DOMAINS
from cyclegan.evaluation.comparison.gain import Gain, combined_gain, paired_gain
from cyclegan.evaluation.distributions import FEWEST, lack_for_kid
from cyclegan.metric_names import headline, higher_is_better
from cyclegan.registry.measurements import Measured
from cyclegan.system.errors import UserError

NOTHING = 1e-3
"""Share of the metric: a generator that beats doing nothing by less does nothing, too, however certain the gain."""


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, and why, in one sentence."""

    metric: str
    value: float
    promote: bool
    reason: str
    against: float | None = None
    """The same metric of the champion, or of doing nothing."""
    gain: float | None = None
    """The mean difference; above 0 is better, whatever the metric."""
    standard_error: float | None = None
    images: int | None = None
    """So many differences; None where the metric is of no single image."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: value for key, value in asdict(self).items() if key != "promote"}


def choose(gate: str, direction: str, measured: Measured) -> str:
    """The metric that decides: `gate`, or for `auto` the headline of the data.

    Raises:
        UserError: the evaluation has no such metric, or one without a standard error.
    """
    if gate == "auto":
        return headline(measured.metrics)
    usable = sorted(name for name in measured.metrics if _can_decide(name, measured))
    if gate not in usable:
        lack = _lack(measured)
        raise UserError(
            f"registry.gate = {gate!r}: the test split yields no such metric with a standard error for {direction}; "
            f"use auto, or one of {', '.join(usable)}{f' ({lack})' if lack else ''}"
        )
    return gate


def decide(metric: str, candidate: Measured, champion: Measured | None = None, version: str = "") -> Decision:
    """Compare a candidate with the champion, or with the identity baseline where there is no champion.

    It has to be better by more than one standard error of the mean difference. Where both have the metric of each
    image, that is of the paired differences; else the two metrics' own errors are added in quadrature.

    Args:
        metric: name of the metric.
        candidate: what was measured for the new version.
        champion: the same for the present champion, `version` of the model; None if there is none.
    """
    value = candidate.metrics[metric]
    if champion is None:
        return _first(metric, value, candidate)
    if obstacle := _not_comparable(metric, candidate, champion):
        reason = f"it cannot be compared with the champion, version {version}: {obstacle}"
        return Decision(metric, value, promote=False, reason=reason)
    against = champion.metrics[metric]
    gain = paired_gain(metric, candidate.of_each_image(metric), champion.of_each_image(metric))
    gain = gain or combined_gain(metric, candidate.metrics, champion.metrics)
    if gain is None:
        compared = f"{metric} {value:.4g} against {against:.4g} of the champion, version {version}"
        return Decision(metric, value, promote=False, reason=f"{compared}: {_undecided(candidate)}")
    verdict = "better" if gain.is_better else "worse" if gain.is_worse else "not better"
    reason = f"{metric} {value:.4g} is {verdict} than {against:.4g} of the champion, version {version}"
    by = ", by more than its standard error" if verdict == "not better" else ""
    return _decision(metric, value, against, gain, f"{reason}{by} ({gain})", promote=gain.is_better)


def _first(metric: str, value: float, candidate: Measured) -> Decision:
    against = candidate.identity.get(metric)
    if against is None:
        lack = _lack(candidate)
        reason = (
            f"{lack}; raise data.test_fraction or add images, or promote it by hand"
            if lack
            else f"{metric} has no baseline that a first version could beat; look at its images, then promote it by "
            "hand"
        )
        return Decision(metric, value, promote=False, reason=reason)
    gain = paired_gain(metric, candidate.of_each_image(metric), candidate.of_each_image(f"baseline_{metric}"))
    gain = gain or combined_gain(metric, candidate.metrics, candidate.identity)
    if gain is None:
        reason = f"{metric} {value:.4g} against {against:.4g} of doing nothing: {_undecided(candidate)}"
        return Decision(metric, value, promote=False, reason=reason)
    beats = gain.is_better and gain.mean > NOTHING * abs(against)
    by = "a thousandth" if gain.is_better and not beats else "more than its standard error"
    verdict = "beats" if beats else "does not beat"
    reason = f"{metric} {value:.4g} {verdict} doing nothing, {against:.4g}, by {by} ({gain})"
    return _decision(metric, value, against, gain, reason, promote=beats)


def _lack(measured: Measured) -> str | None:
    """Why there is no KID, which would have decided; None where that is not for want of images."""
    counts = measured.protocol.get("counts", {})
    return lack_for_kid(counts, "test") if set(DOMAINS) <= set(counts) else None


def _undecided(measured: Measured) -> str:
    """Why there is no standard error by which a gain could be told from chance, and the remedy."""
    counts = measured.protocol.get("counts", {})
    few = [f"{counts[domain]} of domain {domain}" for domain in DOMAINS if counts.get(domain, FEWEST) < FEWEST]
    if few:
        why = f"with {' and '.join(few)} in the test split there is no standard error, which takes {FEWEST} of each"
        return f"{why}; raise data.test_fraction or add images, or promote it by hand"
    return "the images or errors recorded for the two do not match"


def _decision(metric: str, value: float, against: float, gain: Gain, reason: str, *, promote: bool) -> Decision:
    error = gain.standard_error if math.isfinite(gain.standard_error) else None
    return Decision(metric, value, promote, reason, against, gain.mean, error, gain.images)


def _not_comparable(metric: str, candidate: Measured, champion: Measured) -> str | None:
    here, there = candidate.protocol, champion.protocol
    if here.get("md5") != there.get("md5"):
        return f"it was measured on another test split (md5 {_short(there.get('md5'))}, now {_short(here.get('md5'))})"
    other = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
    if other:
        return f"it was measured by another protocol ({', '.join(other)} differ)"
    if metric not in champion.metrics:
        return f"its {metric} was not measured"
    return None


def _short(md5: Any) -> str:
    return "unknown" if md5 is None else str(md5)[:8]


def _can_decide(name: str, measured: Measured) -> bool:
    known = not measured.of_each_image(name).empty or f"{name}_se" in measured.metrics
    return known and higher_is_better(name) is not None
