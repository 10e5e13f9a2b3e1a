"""The evaluation protocol: which metrics compare which images.

For direction AtoB, with a from domain A and b from domain B:

- cycle: G_BtoA(G_AtoB(a)) against a. The second generator receives the unrounded output of the first one.
- identity: G_AtoB(b) against b, as in the identity loss; only if both domains have equal channels.
- change: G_AtoB(a) against a; near 0 for a generator that changes little. On pixels only with equal channels.
- input: rank of a among all images of A, by similarity of features to G_AtoB(a).
- pair: G_AtoB(a) against the true partner of a, over scored pairs.
- kid, frechet, precision, recall, diversity: all G_AtoB(a) against all real b, as sets of feature vectors.

All images are compared as the rounded integers that a user would save. A generator that returns its input unchanged
has perfect cycle, identity, change and input metrics. These metrics measure faithfulness; alone they say nothing about
quality. The identity baseline, the metrics of the unchanged input, is therefore reported beside the model's metrics.
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
# Version of the protocol. Raise it if the meaning of a metric changes: metrics of two versions are never compared.
VERSION = 1
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"l1": l1, "psnr": psnr, "ssim": ssim}
# Prefixes of a table's columns, by translation: the generator, the unchanged input, or a mapping of colors alone.
PREFIXES = {"model": "", "identity": "baseline_", "color_map": "color_map_"}


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one pair of generators on one split.

    Attributes:
        metrics: plain numbers and text, for JSON: `{"AtoB": {"n", "cycle_l1", …, "identity": {"pair_l1", …},
            "color_map": …}, "BtoA": …, "protocol": …}`. L1 and change in 0…1, PSNR in dB, SSIM in -1…1, each the mean
            over images. `identity` holds the identity baseline. Keys without meaning for the data (no pairs, unequal
            channels, too few images) are absent.
        per_image: one row for each direction and image. In direction AtoB an image of domain A has the `cycle_*`,
            `change_*`, `input_rank`, `nearest`, `pair_*` and `baseline_pair_*` metrics; an image of domain B has the
            `identity_*` metrics.
    """

    metrics: dict[str, Any]
    per_image: pd.DataFrame


class RealImages:
    """Features and spectra of the real images of a split, computed at first use and cached.

    Args:
        dataset, split: the images.
        network: the feature network.
        batch_size: images in one batch.
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
        """The feature vectors of all images of a domain, [N, D]."""
        if domain not in self._features:
            images = self._images[domain]
            features = np.empty((len(images), self.network.dimensions))
            for index in equal_batches(images, self._batch_size):
                features[index] = self.network(np.asarray(images[index]))
            self._features[domain] = features
        return self._features[domain]

    def stride_energy(self, domain: Domain) -> float | None:
        """The energy of a domain at the stride frequencies; see `checkerboard.StrideSpectrum`."""
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
    """Measure both generators on a split. The images of a batch have one size.

    Args:
        translators: one for each direction. Their batch size bounds the memory.
        dataset: packed images, and pairs if the data has them.
        split: `val` during training, `test` once at the end.
        real: the real images of this split; without them the metrics on features are absent.
        color_maps: baselines to measure too; fit them on another split.

    Raises:
        UserError: a generator does not fit the data, or its output is not finite.
    """
    for domain in DOMAINS:
        if len(dataset.images(domain, split)) == 0:
            raise UserError(
                f"data.{split}_fraction: the {split} split of domain {domain} is empty; raise the fraction above 0"
            )
    metrics: dict[str, Any] = {}
    frames = []
    for direction in DIRECTIONS:
        color_map = (color_maps or {}).get(direction)
        table, by_translation = _measure_translations(translators, dataset, split, direction, real, color_map)
        means = {"n": len(table)} | _means(table)
        frames.append(table)
        if "change_l1" in table:
            identity_table = _measure_identity(translators[direction], dataset, split, direction)
            means |= _means(identity_table)
            frames.append(identity_table)
        metrics[direction] = means | by_translation.pop("model") | by_translation
    metrics["protocol"] = _protocol(dataset, split, real)
    return Evaluation(metrics, pd.concat(frames, ignore_index=True))


def evenly(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` indices in 0…`count`-1, evenly spaced from first to last."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def _measure_translations(
    translators: Mapping[Direction, Translator],
    dataset: PackedDataset,
    split: EvaluatedSplit,
    direction: Direction,
    real: RealImages | None,
    color_map: ColorMap | None,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The table of the source domain's images, and the metrics over all images by `PREFIXES`' names."""
    source, target = DIRECTIONS[direction]
    images, others = dataset.images(source, split), dataset.images(target, split)
    partner, scored = _partners(dataset, split, direction)
    comparable = images.shape[-1] == others.shape[-1]
    kinds = ["model", *(["identity"] if comparable else []), *(["color_map"] if color_map is not None else [])]
    metrics: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(images), np.nan))
    features: dict[str, np.ndarray] = {}
    if real:
        features = {kind: np.empty((len(images), real.network.dimensions)) for kind in kinds if kind != "identity"}
    spectrum = StrideSpectrum()
    for batch in _translate(translators, direction, images, dataset.bit_depth, color_map):
        _compare_with_input(metrics, batch, comparable)
        if real:
            outputs = batch.translations["model"]
            metrics["luminance_correlation"][batch.index] = luminance_correlation(outputs, batch.inputs)
            spectrum.add(outputs)
            for kind in features:
                features[kind][batch.index] = real.network(batch.translations[kind])
        _compare_with_partners(metrics, batch, kinds, others, partner)
    table = _named_images(dataset, split, direction, partner, scored)
    summaries: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    if real:
        if comparable:
            features["identity"] = real.features(source)
        for kind in kinds:
            summaries[kind] = _compare_sets(features[kind], real.features(target))
            _compare_features_with_partners(metrics, PREFIXES[kind], features[kind], real.features(target), partner)
        summaries["model"] |= _compare_features_with_input(metrics, features["model"], real.features(source))
        summaries["model"] |= _checkerboard(spectrum, real, target)
        table["nearest"] = np.array(dataset.ids(target, split))[nearest(features["model"], real.features(target))]
    table = table.assign(**metrics).dropna(axis="columns", how="all")
    for kind in kinds:
        summaries[kind] |= _pair_means(table, PREFIXES[kind])
    if "identity" in summaries:
        unchanged = {"change_l1": 0.0} | ({"change_perceptual": 0.0} if real else {})
        summaries["identity"] = unchanged | summaries["identity"]
        summaries["identity"].pop("pair_n", None)
    summaries.get("color_map", {}).pop("pair_n", None)
    return table, summaries


@dataclass(frozen=True)
class _Batch:
    """Source images and their translations, all `[N, H, W, C]` of the data's integer type.

    Attributes:
        index: positions of the images in their split.
        inputs: the source images.
        back: the generator's translations, translated back.
        translations: translated images by `PREFIXES`' names.
    """

    index: np.ndarray
    inputs: np.ndarray
    back: np.ndarray
    translations: dict[str, np.ndarray]


def _translate(
    translators: Mapping[Direction, Translator],
    direction: Direction,
    images: ImageSet,
    bit_depth: int,
    color_map: ColorMap | None,
) -> Iterator[_Batch]:
    """Translate the source domain's images to the target domain and back, batch by batch."""
    forward, backward = translators[direction], translators[OPPOSITE[direction]]
    for index in equal_batches(images, forward.batch_size):
        inputs = np.asarray(images[index])
        unrounded = forward.translate_float(to_float(inputs))
        back = to_integer(backward.translate_float(unrounded), bit_depth)
        translations = {"model": to_integer(unrounded, bit_depth), "identity": inputs}
        if color_map is not None:
            translations["color_map"] = color_map(inputs)
        yield _Batch(index, inputs, back, translations)


def _compare_with_input(metrics: dict[str, np.ndarray], batch: _Batch, comparable: bool) -> None:
    """Add `cycle_*` of a batch and, if the domains have equal channels, `change_l1`."""
    for name, measure in METRICS.items():
        metrics[f"cycle_{name}"][batch.index] = measure(batch.back, batch.inputs)
    if comparable:
        metrics["change_l1"][batch.index] = l1(batch.translations["model"], batch.inputs)


def _compare_with_partners(
    metrics: dict[str, np.ndarray], batch: _Batch, kinds: Sequence[str], others: ImageSet, partner: np.ndarray
) -> None:
    """Add `pair_*` of a batch's images that have a partner among `others`."""
    paired = partner[batch.index] >= 0
    if not paired.any():
        return
    index = batch.index[paired]
    truth = others[partner[index]]
    for kind in kinds:
        for name, measure in METRICS.items():
            metrics[f"{PREFIXES[kind]}pair_{name}"][index] = measure(batch.translations[kind][paired], truth)


def _compare_features_with_input(
    metrics: dict[str, np.ndarray], outputs: np.ndarray, inputs: np.ndarray
) -> dict[str, float]:
    """Add `change_perceptual` and `input_rank` of all images, and return the share of rank 1."""
    metrics["change_perceptual"] = cosine_distance(outputs, inputs)
    metrics["input_rank"] = ranks(outputs, inputs, np.arange(len(inputs)))
    return {"input_top1": float((metrics["input_rank"] == 1).mean())}


def _checkerboard(outputs: StrideSpectrum, real: RealImages, target: Domain) -> dict[str, float]:
    """The energy of the outputs at the stride frequencies, divided by the energy of real images."""
    energy, real_energy = outputs.energy, real.stride_energy(target)
    return {"checkerboard": energy / real_energy} if energy is not None and real_energy else {}


def _named_images(
    dataset: PackedDataset, split: EvaluatedSplit, direction: Direction, partner: np.ndarray, scored: np.ndarray
) -> pd.DataFrame:
    """The table of the source domain's image names, with their partners if the data has pairs."""
    source, target = DIRECTIONS[direction]
    table = pd.DataFrame({"direction": direction, "domain": source, "id": dataset.ids(source, split)})
    if (partner >= 0).any():
        names = pd.Series(dataset.ids(target, split))
        table["partner"] = names.reindex(partner).to_numpy()
        table["scored"] = pd.array(scored, dtype="boolean")
    return table


def _compare_sets(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The metrics of a set of images against the real images, as far as the number of images allows them."""
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


def _compare_features_with_partners(
    metrics: dict[str, np.ndarray], prefix: str, features: np.ndarray, real: np.ndarray, partner: np.ndarray
) -> None:
    """Add `pair_perceptual` and `pair_rank` of the images that have a partner."""
    paired = np.flatnonzero(partner >= 0)
    if len(paired):
        truth = partner[paired]
        metrics[f"{prefix}pair_perceptual"][paired] = cosine_distance(features[paired], real[truth])
        metrics[f"{prefix}pair_rank"][paired] = ranks(features[paired], real, truth)


def _measure_identity(
    translator: Translator, dataset: PackedDataset, split: EvaluatedSplit, direction: Direction
) -> pd.DataFrame:
    """The `identity_*` metrics of each image of the target domain."""
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
    """The index of each source image's true partner (-1: none), and whether the pair is scored."""
    source, _ = DIRECTIONS[direction]
    pairs = dataset.pairs(split)
    index, other = (pairs.index_A, pairs.index_B) if source == "A" else (pairs.index_B, pairs.index_A)
    partner = np.full(len(dataset.images(source, split)), -1)
    scored = np.zeros(len(partner), bool)
    partner[index] = other
    scored[index] = pairs.scored
    return partner, scored


def _means(table: pd.DataFrame) -> dict[str, float]:
    """The means of the metrics that every image has."""
    kinds = ("cycle_", "identity_", "change_", "luminance_")
    return {name: float(table[name].mean()) for name in map(str, table.columns) if name.startswith(kinds)}


def _pair_means(table: pd.DataFrame, prefix: str) -> dict[str, Any]:
    """The means over scored pairs of the translation with this prefix."""
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
    """The common size of all images, or the smallest and the largest height and width."""
    sizes = np.concatenate([sizes_of(part) for part in images])
    (min_height, min_width), (height, width) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    if (min_height, min_width) == (height, width):
        return {"height": height, "width": width}
    return {"height": [min_height, height], "width": [min_width, width]}
