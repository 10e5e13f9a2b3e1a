"""What is measured, on which images, against what.

For direction AtoB, with a from domain A and b from domain B:

- cycle: G_BtoA(G_AtoB(a)) against a. The second generator receives the first one's unrounded output.
- identity: G_AtoB(b) against b, the identity loss's meaning; only where both domains have equal channels.
- change: G_AtoB(a) against a; near 0 means that the generator does nothing. On pixels only with equal channels.
- input: whether G_AtoB(a) finds a again among all images of A by its features.
- pair: G_AtoB(a) against the true partner of a, over scored pairs.
- kid, frechet, precision, recall, diversity: all G_AtoB(a) against all real b, as sets of feature vectors.

All images are compared as the rounded integers that a user would save. A generator that returns its input unchanged
has perfect cycle, identity, change and input metrics: these measure faithfulness, never quality on their own. The
metrics of the unchanged input stand beside the model's as the baseline that a translation has to beat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cyclegan.data.loading.dataset import ImageSet, PackedDataset, equal_batches, sizes_of
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, Direction, Domain
from cyclegan.evaluation.checkerboard import StrideSpectrum, luminance_correlation
from cyclegan.evaluation.color_map import ColorMap
from cyclegan.evaluation.distributions import (
    NEIGHBORS,
    SUBSETS,
    cosine_distance,
    frechet_distance,
    kid,
    mean_distance,
    precision_recall,
)
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.metrics import l1, psnr, ssim
from cyclegan.evaluation.retrieval import nearest, ranks
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator
from cyclegan.system.errors import UserError

EvaluatedSplit = Literal["val", "test"]
VERSION = 1
"""Of the protocol. Raised whenever what a metric means changes: metrics of two versions are never compared."""
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"l1": l1, "psnr": psnr, "ssim": ssim}


PREFIXES = {"model": "", "identity": "baseline_", "color_map": "color_map_"}
"""Of a table's columns, by what made the images: the generator, nothing at all, or a change of colors alone."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one pair of generators on one split."""

    metrics: dict[str, Any]
    """Plain numbers and text, for JSON: `{"AtoB": {"n", "cycle_l1", …, "identity": {"pair_l1", …}, "color_map": …},
    "BtoA": …, "protocol": …}`. L1 and change in 0…1, PSNR in dB, SSIM in -1…1, each the mean over images. `identity`
    holds the metrics of returning the input unchanged. Keys without meaning for the data (no pairs, unequal channels,
    too few images) are absent."""

    per_image: pd.DataFrame
    """One row for each direction and image. In direction AtoB an image of domain A carries the `cycle_*`,
    `change_*`, `input_rank`, `nearest`, `pair_*` and `baseline_pair_*` metrics, an image of domain B the `identity_*`
    metrics."""


class RealImages:
    """What is known of the real images of a split, computed when it is first asked for and kept.

    Args:
        dataset, split: the images.
        network: in whose features they are seen.
        batch_size: images read at once.
    """

    def __init__(
        self, dataset: PackedDataset, split: EvaluatedSplit, network: FeatureNetwork, batch_size: int = 32
    ) -> None:
        self.network = network
        self._images = {domain: dataset.images(domain, split) for domain in DOMAINS}
        self._batch_size = batch_size
        self._features: dict[Domain, np.ndarray] = {}
        self._stride_energy: dict[Domain, float | None] = {}

    def features(self, domain: Domain) -> np.ndarray:
        """Of all images of a domain: [N, D]."""
        if domain not in self._features:
            images = self._images[domain]
            features = np.empty((len(images), self.network.dimensions))
            for index in equal_batches(images, self._batch_size):
                features[index] = self.network(np.asarray(images[index]))
            self._features[domain] = features
        return self._features[domain]

    def stride_energy(self, domain: Domain) -> float | None:
        """Energy at the stride frequencies; see `checkerboard.StrideSpectrum`."""
        if domain not in self._stride_energy:
            images, spectrum = self._images[domain], StrideSpectrum()
            for index in equal_batches(images, self._batch_size):
                spectrum.add(np.asarray(images[index]))
            self._stride_energy[domain] = spectrum.energy
        return self._stride_energy[domain]


def evaluate(
    translators: Mapping[Direction, Translator],
    dataset: PackedDataset,
    split: EvaluatedSplit,
    real: RealImages | None = None,
    color_maps: Mapping[Direction, ColorMap] | None = None,
) -> Evaluation:
    """Measure both generators on a split, batch by batch; images of different sizes never share one.

    Args:
        translators: one for each direction. Their batch size bounds the memory.
        dataset: packed images, with pairs where the data has them.
        split: `val` during training, `test` once at the end.
        real: the real images of this split; without them nothing is measured on features.
        color_maps: fitted elsewhere than on this split, to be measured beside the generators.

    Raises:
        UserError: a generator does not fit the data, or its output is not finite.
    """
    for domain in DOMAINS:
        if len(dataset.images(domain, split)) == 0:
            raise UserError(f"the {split} split of domain {domain} is empty: raise data.{split}_fraction above 0")
    metrics: dict[str, Any] = {}
    frames = []
    for direction in DIRECTIONS:
        color_map = (color_maps or {}).get(direction)
        table, baselines = _translated(translators, dataset, split, direction, real, color_map)
        found = {"n": len(table)} | _means(table)
        frames.append(table)
        if "change_l1" in table:
            reproduced = _reproduced(translators[direction], dataset, split, direction)
            found |= _means(reproduced)
            frames.append(reproduced)
        metrics[direction] = found | baselines.pop("model") | baselines
    metrics["protocol"] = _protocol(dataset, split, real)
    return Evaluation(metrics, pd.concat(frames, ignore_index=True))


def evenly(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` indices of 0…`count`-1, spread from first to last."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def _translated(
    translators: Mapping[Direction, Translator],
    dataset: PackedDataset,
    split: EvaluatedSplit,
    direction: Direction,
    real: RealImages | None,
    color_map: ColorMap | None,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The table of the images of the direction's source, and the metrics over all of them by what made the images."""
    source, target = DIRECTIONS[direction]
    images, others = dataset.images(source, split), dataset.images(target, split)
    partner, scored = _partners(dataset, split, direction)
    comparable = images.shape[-1] == others.shape[-1]
    makers = ["model", *(["identity"] if comparable else []), *(["color_map"] if color_map is not None else [])]
    metrics: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(images), np.nan))
    features: dict[str, np.ndarray] = {}
    if real:
        features = {maker: np.empty((len(images), real.network.dimensions)) for maker in makers if maker != "identity"}
    spectrum = StrideSpectrum()
    for batch in _translate(translators, direction, images, dataset.bit_depth, color_map):
        _compare_with_input(metrics, batch, comparable)
        if real:
            metrics["luminance_correlation"][batch.index] = luminance_correlation(batch.made["model"], batch.inputs)
            spectrum.add(batch.made["model"])
            for maker in features:
                features[maker][batch.index] = real.network(batch.made[maker])
        _compare_with_partners(metrics, batch, makers, others, partner)
    table = _named_images(dataset, split, direction, partner, scored)
    over_all: dict[str, dict[str, Any]] = {maker: {} for maker in makers}
    if real:
        if comparable:
            features["identity"] = real.features(source)
        for maker in makers:
            over_all[maker] = _as_sets(features[maker], real.features(target))
            _against_partners(metrics, PREFIXES[maker], features[maker], real.features(target), partner)
        over_all["model"] |= _compare_features_with_input(metrics, features["model"], real.features(source))
        over_all["model"] |= _checkerboard(spectrum, real, target)
        table["nearest"] = np.array(dataset.ids(target, split))[nearest(features["model"], real.features(target))]
    table = table.assign(**metrics).dropna(axis="columns", how="all")
    for maker in makers:
        over_all[maker] |= _pair_means(table, PREFIXES[maker])
    if "identity" in over_all:
        over_all["identity"] = {"change_l1": 0.0} | ({"change_perceptual": 0.0} if real else {}) | over_all["identity"]
        over_all["identity"].pop("pair_n", None)
    over_all.get("color_map", {}).pop("pair_n", None)
    return table, over_all


@dataclass(frozen=True)
class _Batch:
    """Images of the source, and what is made of them, all `[N, H, W, C]` of the data's integer type.

    Attributes:
        index: where the images lie in their split.
        inputs: the images themselves.
        back: their translations, translated back.
        made: what each maker makes of them, by `PREFIXES`' names.
    """

    index: np.ndarray
    inputs: np.ndarray
    back: np.ndarray
    made: dict[str, np.ndarray]


def _translate(
    translators: Mapping[Direction, Translator],
    direction: Direction,
    images: ImageSet,
    bit_depth: int,
    color_map: ColorMap | None,
) -> Iterator[_Batch]:
    """Translate the images of the direction's source there and back, batch by batch."""
    forward, backward = translators[direction], translators[OPPOSITE[direction]]
    for index in equal_batches(images, forward.batch_size):
        inputs = np.asarray(images[index])
        unrounded = forward.translate_float(to_float(inputs))
        back = to_integer(backward.translate_float(unrounded), bit_depth)
        made = {"model": to_integer(unrounded, bit_depth), "identity": inputs}
        if color_map is not None:
            made["color_map"] = color_map(inputs)
        yield _Batch(index, inputs, back, made)


def _compare_with_input(metrics: dict[str, np.ndarray], batch: _Batch, comparable: bool) -> None:
    """Add `cycle_*` and, where the domains have equal channels, `change_l1` of the images of a batch."""
    for name, measure in METRICS.items():
        metrics[f"cycle_{name}"][batch.index] = measure(batch.back, batch.inputs)
    if comparable:
        metrics["change_l1"][batch.index] = l1(batch.made["model"], batch.inputs)


def _compare_with_partners(
    metrics: dict[str, np.ndarray], batch: _Batch, makers: Sequence[str], others: ImageSet, partner: np.ndarray
) -> None:
    """Add `pair_*` of the images of a batch that have a partner among `others`."""
    paired = partner[batch.index] >= 0
    if not paired.any():
        return
    index = batch.index[paired]
    truth = others[partner[index]]
    for maker in makers:
        for name, measure in METRICS.items():
            metrics[f"{PREFIXES[maker]}pair_{name}"][index] = measure(batch.made[maker][paired], truth)


def _compare_features_with_input(
    metrics: dict[str, np.ndarray], outputs: np.ndarray, inputs: np.ndarray
) -> dict[str, float]:
    """Add `change_perceptual` and `input_rank` of all images, and return the share of rank 1."""
    metrics["change_perceptual"] = cosine_distance(outputs, inputs)
    metrics["input_rank"] = ranks(outputs, inputs, np.arange(len(inputs)))
    return {"input_top1": float((metrics["input_rank"] == 1).mean())}


def _checkerboard(outputs: StrideSpectrum, real: RealImages, target: Domain) -> dict[str, float]:
    """The outputs' energy at the stride frequencies, as a multiple of that of real images."""
    energy, usual = outputs.energy, real.stride_energy(target)
    return {"checkerboard": energy / usual} if energy is not None and usual else {}


def _named_images(
    dataset: PackedDataset, split: EvaluatedSplit, direction: Direction, partner: np.ndarray, scored: np.ndarray
) -> pd.DataFrame:
    """The images of the direction's source by name, with their partners where there are any."""
    source, target = DIRECTIONS[direction]
    table = pd.DataFrame({"direction": direction, "domain": source, "id": dataset.ids(source, split)})
    if (partner >= 0).any():
        names = pd.Series(dataset.ids(target, split))
        table["partner"] = names.reindex(partner).to_numpy()
        table["scored"] = pd.array(scored, dtype="boolean")
    return table


def _as_sets(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The metrics of a set of images against the real ones that its size allows."""
    count = min(len(features), len(real))
    metrics: dict[str, float] = {}
    if count >= 2:
        distance = kid(features, real)
        metrics["kid"] = distance.value
        if np.isfinite(distance.error):
            metrics["kid_se"] = distance.error
        metrics["frechet"] = frechet_distance(features, real)
        spread = mean_distance(real)
        if spread > 0:
            metrics["diversity"] = mean_distance(features) / spread
    if count > NEIGHBORS:
        metrics["precision"], metrics["recall"] = precision_recall(features, real)
    return metrics


def _against_partners(
    metrics: dict[str, np.ndarray], prefix: str, features: np.ndarray, real: np.ndarray, partner: np.ndarray
) -> None:
    """Add `pair_perceptual` and `pair_rank` of the images that have a partner."""
    paired = np.flatnonzero(partner >= 0)
    if len(paired):
        truth = partner[paired]
        metrics[f"{prefix}pair_perceptual"][paired] = cosine_distance(features[paired], real[truth])
        metrics[f"{prefix}pair_rank"][paired] = ranks(features[paired], real, truth)


def _reproduced(
    translator: Translator, dataset: PackedDataset, split: EvaluatedSplit, direction: Direction
) -> pd.DataFrame:
    """The `identity_*` metrics of each image of the direction's target domain."""
    _, target = DIRECTIONS[direction]
    images = dataset.images(target, split)
    table = pd.DataFrame({"direction": direction, "domain": target, "id": dataset.ids(target, split)})
    metrics: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(images), np.nan))
    for index in equal_batches(images, translator.batch_size):
        inputs = np.asarray(images[index])
        outputs = translator.translate(inputs)
        for name, measure in METRICS.items():
            metrics[f"identity_{name}"][index] = measure(outputs, inputs)
    return table.assign(**metrics)


def _partners(dataset: PackedDataset, split: EvaluatedSplit, direction: Direction) -> tuple[np.ndarray, np.ndarray]:
    """For each image of the source its true partner's index (-1: none), and whether that pair is scored."""
    source, _ = DIRECTIONS[direction]
    pairs = dataset.pairs(split)
    index, other = (pairs.index_A, pairs.index_B) if source == "A" else (pairs.index_B, pairs.index_A)
    partner = np.full(len(dataset.images(source, split)), -1)
    scored = np.zeros(len(partner), bool)
    partner[index] = other
    scored[index] = pairs.scored
    return partner, scored


def _means(table: pd.DataFrame) -> dict[str, float]:
    """The metrics that every image has."""
    kinds = ("cycle_", "identity_", "change_", "luminance_")
    return {name: float(table[name].mean()) for name in map(str, table.columns) if name.startswith(kinds)}


def _pair_means(table: pd.DataFrame, prefix: str) -> dict[str, Any]:
    """The metrics over scored pairs of what made the images."""
    if "scored" not in table or not table["scored"].any():
        return {}
    scored = table[table["scored"]]
    result: dict[str, Any] = {"pair_n": len(scored)}
    for name in (*METRICS, "perceptual"):
        if f"{prefix}pair_{name}" in table:
            result[f"pair_{name}"] = float(scored[f"{prefix}pair_{name}"].mean())
    if f"{prefix}pair_rank" in table:
        for top in (1, 5):
            result[f"pair_top{top}"] = float((scored[f"{prefix}pair_rank"] <= top).mean())
    return result


def _protocol(dataset: PackedDataset, split: EvaluatedSplit, real: RealImages | None) -> dict[str, Any]:
    images = {domain: dataset.images(domain, split) for domain in DOMAINS}
    pairs = dataset.pairs(split)
    protocol = {
        "version": VERSION,
        "split": split,
        "counts": {domain: len(part) for domain, part in images.items()}
        | {"pairs": len(pairs), "scored_pairs": int(pairs.scored.sum())},
        "scored_rule": "pairs marked as scored in the data set" if len(pairs) else "no pairs",
        "resolution": _resolution([*images.values()]),
        "channels": {domain: part.shape[-1] for domain, part in images.items()},
        "bit_depth": dataset.bit_depth,
    }
    if real is not None:
        network = real.network
        protocol["features"] = {"network": network.name, "dimensions": network.dimensions, "sha256": network.sha256}
        protocol["kid"] = f"unbiased, kernel (x·y/D + 1)³, all images; kid_se from {SUBSETS} random halves"
        protocol["precision_recall"] = f"k = {NEIGHBORS}"
    return protocol


def _resolution(images: list[ImageSet]) -> dict[str, Any]:
    """The one size of all images, or the smallest and the largest height and width."""
    sizes = np.concatenate([sizes_of(part) for part in images])
    (least_height, least_width), (height, width) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    if (least_height, least_width) == (height, width):
        return {"height": height, "width": width}
    return {"height": [least_height, height], "width": [least_width, width]}
