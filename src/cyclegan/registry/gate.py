"""The gate: whether a new version is better than the champion or, without one, than the identity baseline."""

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

# A first version must beat the identity baseline by this share of its metric, however certain a smaller gain is.
LEAST_GAIN_SHARE = 1e-3


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, with the reason."""

    metric: str
    value: float
    promote: bool
    reason: str
    against: float | None = None
    """The same metric of the champion, or of the identity baseline."""
    gain: float | None = None
    """The mean difference; above 0 is better for every metric."""
    standard_error: float | None = None
    images: int | None = None
    """The number of paired differences; None if the metric has no values of single images."""

    def as_dict(self) -> dict[str, Any]:
        """The fields for `reports/register.json`."""
        return {key: value for key, value in asdict(self).items() if key != "promote"}


def choose_metric(gate: str, direction: str, measured: Measured) -> str:
    """The metric that decides: `gate`, or for `auto` the headline metric of the data.

    Raises:
        UserError: the evaluation lacks the metric or its standard error.
    """
    if gate == "auto":
        return headline(measured.metrics)
    usable = sorted(name for name in measured.metrics if _can_decide(name, measured))
    if gate not in usable:
        lack = _why_no_kid(measured)
        raise UserError(
            f"registry.gate = {gate!r}: the test split gives no such metric with a standard error for {direction}; "
            f"use auto, or one of {', '.join(usable)}{f' ({lack})' if lack else ''}"
        )
    return gate


def decide(metric: str, candidate: Measured, champion: Measured | None = None, version: str = "") -> Decision:
    """Compare a candidate with the champion or, without one, with the identity baseline.

    It must be better by more than one standard error of the mean difference. If both have the metric for each image,
    that is the error of the paired differences. Otherwise the errors of both metrics are added in quadrature.

    Args:
        metric: name of the metric.
        candidate: measurements of the new version.
        champion: those of the current champion, `version` of the model; None without one.
    """
    value = candidate.metrics[metric]
    if champion is None:
        return _decide_first(metric, value, candidate)
    if obstacle := _not_comparable(metric, candidate, champion):
        reason = f"not comparable with the champion, version {version}: {obstacle}"
        return Decision(metric, value, promote=False, reason=reason)
    against = champion.metrics[metric]
    values = f"{metric} {value:.4g}, champion (version {version}) {against:.4g}"
    gain = paired_gain(metric, candidate.values_by_image(metric), champion.values_by_image(metric))
    gain = gain or combined_gain(metric, candidate.metrics, champion.metrics)
    if gain is None:
        return Decision(metric, value, promote=False, reason=f"{values}: {_why_undecided(candidate)}")
    verdict = "better" if gain.is_better else "worse" if gain.is_worse else "not better by more than its standard error"
    return _decision(metric, value, against, gain, f"{values}: {verdict} ({gain})", promote=gain.is_better)


def _decide_first(metric: str, value: float, candidate: Measured) -> Decision:
    against = candidate.identity.get(metric)
    if against is None:
        lack = _why_no_kid(candidate)
        reason = (
            f"{lack}; raise data.test_fraction or add images, or promote it by hand"
            if lack
            else f"{metric} has no baseline to beat; look at the images, then promote it by hand"
        )
        return Decision(metric, value, promote=False, reason=reason)
    values = f"{metric} {value:.4g}, identity baseline {against:.4g}"
    gain = paired_gain(metric, candidate.values_by_image(metric), candidate.values_by_image(f"baseline_{metric}"))
    gain = gain or combined_gain(metric, candidate.metrics, candidate.identity)
    if gain is None:
        return Decision(metric, value, promote=False, reason=f"{values}: {_why_undecided(candidate)}")
    beats = gain.is_better and gain.mean > LEAST_GAIN_SHARE * abs(against)
    least = "a thousandth" if gain.is_better and not beats else "its standard error"
    reason = f"{values}: {'better' if beats else 'not better'} by more than {least} ({gain})"
    return _decision(metric, value, against, gain, reason, promote=beats)


def _why_no_kid(measured: Measured) -> str | None:
    """Why KID, the default metric, is missing; None if not for lack of images."""
    counts = measured.protocol.get("counts", {})
    return lack_for_kid(counts, "test") if set(DOMAINS) <= set(counts) else None


def _why_undecided(measured: Measured) -> str:
    """Why there is no standard error of the gain, and the remedy."""
    counts = measured.protocol.get("counts", {})
    few = [f"{counts[domain]} of domain {domain}" for domain in DOMAINS if counts.get(domain, FEWEST) < FEWEST]
    if few:
        why = f"no standard error, because the test split has {' and '.join(few)} and needs {FEWEST} of each"
        return f"{why}; raise data.test_fraction or add images, or promote it by hand"
    return "their images or standard errors do not match"


def _decision(metric: str, value: float, against: float, gain: Gain, reason: str, *, promote: bool) -> Decision:
    error = gain.standard_error if math.isfinite(gain.standard_error) else None
    return Decision(metric, value, promote, reason, against, gain.mean, error, gain.images)


def _not_comparable(metric: str, candidate: Measured, champion: Measured) -> str | None:
    here, there = candidate.protocol, champion.protocol
    if here.get("md5") != there.get("md5"):
        return f"measured on another test split (md5 {_short(there.get('md5'))}, now {_short(here.get('md5'))})"
    differing = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
    if differing:
        return f"measured by another protocol (different: {', '.join(differing)})"
    if metric not in champion.metrics:
        return f"without {metric}"
    return None


def _short(md5: Any) -> str:
    return "unknown" if md5 is None else str(md5)[:8]


def _can_decide(name: str, measured: Measured) -> bool:
    known = not measured.values_by_image(name).empty or f"{name}_se" in measured.metrics
    return known and higher_is_better(name) is not None
