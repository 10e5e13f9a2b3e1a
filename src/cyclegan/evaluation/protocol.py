"""What is measured, on which pictures, against what.

For direction AtoB, with a from domain A and b from domain B:

- cycle: G_BtoA(G_AtoB(a)) against a. The second generator receives the first one's unrounded output.
- identity: G_AtoB(b) against b, the identity loss's meaning; only where both domains have equal channels.
- change: G_AtoB(a) against a; near 0 means that the generator does nothing. Equal channels only.
- pair: G_AtoB(a) against the true partner of a, over scored pairs.

All pictures are compared as the rounded integers that a user would save. A generator that returns its input unchanged
has perfect cycle and identity figures: these measure faithfulness, never quality on their own. Its pair figures are
the baseline that a translation has to beat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cyclegan.data.dataset import PackedDataset, Pictures, equal_batches, sizes_of, to_float, to_integer
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, Direction
from cyclegan.errors import UserError
from cyclegan.evaluation.metrics import l1, psnr, ssim
from cyclegan.inference.translate import Translator

EvaluatedSplit = Literal["val", "test"]
VERSION = 1
"""Of the protocol. Raised whenever what a figure means changes: figures of two versions are never compared."""
FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"l1": l1, "psnr": psnr, "ssim": ssim}


@dataclass(frozen=True)
class Evaluation:
    """The figures of one pair of generators on one split."""

    metrics: dict[str, Any]
    """Plain numbers and text, for JSON: `{"AtoB": {"n", "cycle_l1", …, "identity": {"pair_l1", …}}, "BtoA": …,
    "protocol": …}`. L1 and change in 0…1, PSNR in dB, SSIM in -1…1, each the mean over pictures. `identity` holds the
    figures of returning the input unchanged. Keys without meaning for the data (no pairs, unequal channels) are
    absent."""

    per_image: pd.DataFrame
    """One row for each direction and picture. In direction AtoB a picture of domain A carries the `cycle_*`,
    `change_l1`, `pair_*` and `baseline_pair_*` figures, a picture of domain B the `identity_*` figures."""


def evaluate(translators: Mapping[Direction, Translator], dataset: PackedDataset, split: EvaluatedSplit) -> Evaluation:
    """Measure both generators on a split, batch by batch; pictures of different sizes never share one.

    Args:
        translators: one for each direction. Their batch size bounds the memory.
        dataset: packed pictures, with pairs where the data has them.
        split: `val` during training, `test` once at the end.

    Raises:
        UserError: a generator does not fit the data, or its output is not finite.
    """
    for domain in DOMAINS:
        if len(dataset.images(domain, split)) == 0:
            raise UserError(f"the {split} split of domain {domain} is empty: raise data.{split}_fraction above 0")
    metrics: dict[str, Any] = {}
    frames = []
    for direction in DIRECTIONS:
        translated = _translated(translators, dataset, split, direction)
        figures = {"n": len(translated)} | _means(translated)
        frames.append(translated)
        if "change_l1" in translated:
            reproduced = _reproduced(translators[direction], dataset, split, direction)
            figures |= _means(reproduced)
            frames.append(reproduced)
        metrics[direction] = figures | _pair_means(translated)
    metrics["protocol"] = _protocol(dataset, split)
    return Evaluation(metrics, pd.concat(frames, ignore_index=True))


def evenly(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` indices of 0…`count`-1, spread from first to last."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def _translated(
    translators: Mapping[Direction, Translator], dataset: PackedDataset, split: EvaluatedSplit, direction: Direction
) -> pd.DataFrame:
    """The figures of each picture of the direction's source: `cycle_*`, `change_l1`, `pair_*`, `baseline_pair_*`."""
    source, target = DIRECTIONS[direction]
    forward, backward = translators[direction], translators[OPPOSITE[direction]]
    images, others = dataset.images(source, split), dataset.images(target, split)
    partner, scored = _partners(dataset, split, direction)
    comparable = images.shape[-1] == others.shape[-1]
    table = pd.DataFrame({"direction": direction, "domain": source, "id": dataset.ids(source, split)})
    if (partner >= 0).any():
        names = pd.Series(dataset.ids(target, split))
        table["partner"] = names.reindex(partner).to_numpy()
        table["scored"] = pd.array(scored, dtype="boolean")
    figures: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(images), np.nan))
    for index in equal_batches(images, forward.batch_size):
        inputs = np.asarray(images[index])
        outputs = forward.translate_float(to_float(inputs))
        back = to_integer(backward.translate_float(outputs), dataset.bit_depth)
        outputs = to_integer(outputs, dataset.bit_depth)
        for name, measure in FIGURES.items():
            figures[f"cycle_{name}"][index] = measure(back, inputs)
        if comparable:
            figures["change_l1"][index] = l1(outputs, inputs)
        paired = partner[index] >= 0
        if not paired.any():
            continue
        truth = others[partner[index[paired]]]
        for name, measure in FIGURES.items():
            figures[f"pair_{name}"][index[paired]] = measure(outputs[paired], truth)
            if comparable:
                figures[f"baseline_pair_{name}"][index[paired]] = measure(inputs[paired], truth)
    return table.assign(**figures).dropna(axis="columns", how="all")


def _reproduced(
    translator: Translator, dataset: PackedDataset, split: EvaluatedSplit, direction: Direction
) -> pd.DataFrame:
    """The `identity_*` figures of each picture of the direction's target domain."""
    _, target = DIRECTIONS[direction]
    images = dataset.images(target, split)
    table = pd.DataFrame({"direction": direction, "domain": target, "id": dataset.ids(target, split)})
    figures: dict[str, np.ndarray] = defaultdict(lambda: np.full(len(images), np.nan))
    for index in equal_batches(images, translator.batch_size):
        inputs = np.asarray(images[index])
        outputs = translator.translate(inputs)
        for name, measure in FIGURES.items():
            figures[f"identity_{name}"][index] = measure(outputs, inputs)
    return table.assign(**figures)


def _partners(dataset: PackedDataset, split: EvaluatedSplit, direction: Direction) -> tuple[np.ndarray, np.ndarray]:
    """For each picture of the source its true partner's index (-1: none), and whether that pair is scored."""
    source, _ = DIRECTIONS[direction]
    pairs = dataset.pairs(split)
    index, other = (pairs.index_A, pairs.index_B) if source == "A" else (pairs.index_B, pairs.index_A)
    partner = np.full(len(dataset.images(source, split)), -1)
    scored = np.zeros(len(partner), bool)
    partner[index] = other
    scored[index] = pairs.scored
    return partner, scored


def _means(table: pd.DataFrame) -> dict[str, float]:
    """The figures that every picture has."""
    names = [name for name in map(str, table.columns) if name.startswith(("cycle_", "identity_", "change_"))]
    return {name: float(table[name].mean()) for name in names}


def _pair_means(table: pd.DataFrame) -> dict[str, Any]:
    """The figures over scored pairs, and the identity baseline."""
    result: dict[str, Any] = {}
    baseline = {"change_l1": 0.0} if "change_l1" in table else {}
    if "scored" in table and table["scored"].any():
        scored = table[table["scored"]]
        result["pair_n"] = len(scored)
        for name in FIGURES:
            result[f"pair_{name}"] = float(scored[f"pair_{name}"].mean())
            if baseline:
                baseline[f"pair_{name}"] = float(scored[f"baseline_pair_{name}"].mean())
    return result | ({"identity": baseline} if baseline else {})


def _protocol(dataset: PackedDataset, split: EvaluatedSplit) -> dict[str, Any]:
    images = {domain: dataset.images(domain, split) for domain in DOMAINS}
    pairs = dataset.pairs(split)
    return {
        "version": VERSION,
        "split": split,
        "counts": {domain: len(pictures) for domain, pictures in images.items()}
        | {"pairs": len(pairs), "scored_pairs": int(pairs.scored.sum())},
        "scored_rule": "pairs marked as scored in the data set" if len(pairs) else "no pairs",
        "resolution": _resolution([*images.values()]),
        "channels": {domain: pictures.shape[-1] for domain, pictures in images.items()},
        "bit_depth": dataset.bit_depth,
    }


def _resolution(images: list[Pictures]) -> dict[str, Any]:
    """The one size of all pictures, or the smallest and the largest height and width."""
    sizes = np.concatenate([sizes_of(pictures) for pictures in images])
    (least_height, least_width), (height, width) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    if (least_height, least_width) == (height, width):
        return {"height": height, "width": width}
    return {"height": [least_height, height], "width": [least_width, width]}
