from __future__ import annotations

import json
from collections.abc import Callable

import keras
import numpy as np
import pytest

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.color_map import ColorMap
from cyclegan.evaluation.distributions import cosine_distance, frechet_distance, kid, mean_distance, precision_recall
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.metrics import l1, psnr, ssim
from cyclegan.evaluation.protocol import VERSION, RealImages, evaluate, evenly
from cyclegan.evaluation.retrieval import ranks
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator
from cyclegan.system.errors import UserError

Pack = Callable[..., PackedDataset]
Linear = Callable[..., keras.Model]
MEASURES = {"l1": l1, "psnr": psnr, "ssim": ssim}


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def through(matrix: np.ndarray, offset: float, images: np.ndarray) -> np.ndarray:
    """The output of `linear`, computed by NumPy as float."""
    return to_float(images) @ matrix + offset


def test_identity_reproduces_the_known_baseline(emoji: PackedDataset, unchanged: dict[str, Translator]) -> None:
    metrics = evaluate(unchanged, emoji, "test").metrics
    assert metrics["protocol"]["counts"] == {"A": 245, "B": 245, "pairs": 245, "scored_pairs": 233}
    for direction in ("AtoB", "BtoA"):
        found = metrics[direction]
        assert found["n"] == 245
        assert found["pair_n"] == 233
        assert found["pair_l1"] == pytest.approx(0.0576, abs=0.00005)
        assert found["pair_psnr"] == pytest.approx(19.84, abs=0.005)
        assert found["pair_ssim"] == pytest.approx(0.752, abs=0.0005)
        # The model is the identity here, so it equals its baseline and is perfectly faithful.
        assert found["identity"] == {key: found[key] for key in ("change_l1", "pair_l1", "pair_psnr", "pair_ssim")}
        for kind in ("cycle", "identity"):
            assert [found[f"{kind}_{key}"] for key in MEASURES] == [0, 100, 1]


def test_each_metric_equals_its_definition(pack: Pack, linear: Linear) -> None:
    a, b = noise(5, 9, 10, 3, seed=1), noise(4, 9, 10, 3, seed=2)
    dataset = pack(a, b, split="val", pairs=[(0, 3, True), (4, 1, True), (2, 0, False)])
    rng = np.random.default_rng(3)
    networks = {"AtoB": (rng.normal(size=(3, 3)) / 3, 0.1), "BtoA": (rng.normal(size=(3, 3)) / 3, -0.2)}
    translators = {direction: Translator(linear(*network), batch_size=2) for direction, network in networks.items()}

    evaluation = evaluate(translators, dataset, "val")

    for direction, opposite, source, target, pairs in (
        ("AtoB", "BtoA", a, b, [(0, 3), (4, 1)]),
        ("BtoA", "AtoB", b, a, [(3, 0), (1, 4)]),
    ):
        forward, backward = networks[direction], networks[opposite]
        unrounded = through(*forward, source)
        translated = to_integer(unrounded, 8)
        back = to_integer(unrounded @ backward[0] + backward[1], 8)
        same = to_integer(through(*forward, target), 8)
        index, partner = np.transpose(pairs)
        metrics = evaluation.metrics[direction]
        assert metrics["n"] == len(source)
        assert metrics["pair_n"] == 2
        assert metrics["change_l1"] == pytest.approx(l1(translated, source).mean(), abs=1e-4)
        for key, measure in MEASURES.items():
            expected = {
                f"cycle_{key}": measure(back, source).mean(),
                f"identity_{key}": measure(same, target).mean(),
                f"pair_{key}": measure(translated[index], target[partner]).mean(),
            }
            for name, value in expected.items():
                assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
            baseline = measure(source[index], target[partner]).mean()
            assert metrics["identity"][f"pair_{key}"] == pytest.approx(baseline)

        # The table's means are the metrics, and its rows are the images.
        rows = evaluation.per_image[evaluation.per_image["direction"] == direction]
        assert len(rows) == len(source) + len(target)
        own = rows[rows["domain"] == direction[0]]
        assert list(own["id"]) == dataset.ids(direction[0], "val")
        assert own["pair_l1"].notna().sum() == 3
        scored = own[own["scored"].astype(bool)]
        assert list(scored["partner"]) == [f"val{direction[-1]}/{p}" for _, p in sorted(pairs)]
        for name in ("cycle_psnr", "change_l1", "identity_ssim"):
            assert rows[name].mean() == pytest.approx(metrics[name])
        assert scored["pair_psnr"].mean() == pytest.approx(metrics["pair_psnr"])
        assert scored["baseline_pair_psnr"].mean() == pytest.approx(metrics["identity"]["pair_psnr"])

    assert evaluation.metrics["protocol"] == {
        "version": VERSION,
        "split": "val",
        "counts": {"A": 5, "B": 4, "pairs": 3, "scored_pairs": 2},
        "scored_rule": "pairs marked as scored in the data set",
        "resolution": {"height": 9, "width": 10},
        "channels": {"A": 3, "B": 3},
        "bit_depth": 8,
    }
    json.dumps(evaluation.metrics, allow_nan=False)


@pytest.mark.parametrize("pairs", [[], [(0, 0, False)]])
def test_no_scored_pairs_leave_no_pair_keys(
    pack: Pack, unchanged: dict[str, Translator], pairs: list[tuple[int, int, bool]]
) -> None:
    metrics = evaluate(unchanged, pack(noise(2, 8, 8, 3), noise(3, 8, 8, 3), pairs=pairs), "test").metrics
    for direction in ("AtoB", "BtoA"):
        assert not [key for key in metrics[direction] if key.startswith("pair_")]
        assert metrics[direction]["identity"] == {"change_l1": 0.0}


def test_unequal_channels(pack: Pack, linear: Linear) -> None:
    gray, color = noise(3, 8, 8, 1, seed=1), noise(2, 8, 8, 3, seed=2)
    dataset = pack(gray, color, pairs=[(0, 0, True)])
    translators = {
        "AtoB": Translator(linear(np.ones((1, 3)))),
        "BtoA": Translator(linear(np.full((3, 1), 1 / 3))),
    }
    evaluation = evaluate(translators, dataset, "test")
    for direction in ("AtoB", "BtoA"):
        keys = set(evaluation.metrics[direction])
        assert keys == {"n", "pair_n"} | {f"{kind}_{key}" for kind in ("cycle", "pair") for key in MEASURES}
    # Gray to color and back loses nothing.
    assert evaluation.metrics["AtoB"]["cycle_l1"] == 0
    assert not [name for name in evaluation.per_image if name.startswith(("identity_", "change_", "baseline_"))]


def test_16_bit(pack: Pack, linear: Linear) -> None:
    images = noise(2, 8, 8, 3, dtype=np.uint16)
    translators = {direction: Translator(linear(np.eye(3)), bit_depth=16) for direction in ("AtoB", "BtoA")}
    metrics = evaluate(translators, pack(images, images, pairs=[(0, 1, True)]), "test").metrics
    assert metrics["protocol"]["bit_depth"] == 16
    assert metrics["AtoB"]["change_l1"] < 1e-5
    assert metrics["AtoB"]["pair_psnr"] == pytest.approx(psnr(images[:1], images[1:])[0], rel=1e-4)


def test_the_cycle_is_not_rounded_in_between(pack: Pack, linear: Linear) -> None:
    images = noise(2, 8, 8, 3)
    # A thousandth of the range leaves one or two integers, from which rounding could not return.
    translators = {"AtoB": Translator(linear(np.eye(3) / 1000)), "BtoA": Translator(linear(np.eye(3) * 1000))}
    assert evaluate(translators, pack(images, images), "test").metrics["AtoB"]["cycle_l1"] == 0


def test_progress_counts_every_translation(pack: Pack, unchanged: dict[str, Translator]) -> None:
    """Each image goes there and back, and through the generator of its own domain."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    counts: list[int] = []
    with unchanged["AtoB"].reporting(counts.append), unchanged["BtoA"].reporting(counts.append):
        evaluate(unchanged, pack(images, images[:3]), "test")
    assert sum(counts) == 3 * 23
    assert max(counts) == 16
    unchanged["AtoB"].translate(images)
    assert sum(counts) == 3 * 23


def test_empty_split_is_named(pack: Pack, unchanged: dict[str, Translator]) -> None:
    dataset = pack(noise(2, 8, 8, 3), noise(2, 8, 8, 3), split="val")
    with pytest.raises(UserError, match=r"data\.test_fraction: .*test split of domain A is empty"):
        evaluate(unchanged, dataset, "test")


def test_diverged_generator_is_refused(pack: Pack, linear: Linear, unchanged: dict[str, Translator]) -> None:
    diverged = linear(np.full((3, 3), np.nan))
    dataset = pack(noise(2, 8, 8, 3), noise(2, 8, 8, 3))
    with pytest.raises(UserError, match="not finite"):
        evaluate({**unchanged, "BtoA": Translator(diverged)}, dataset, "test")


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 4, [0, 3, 6, 9]), (3, 8, [0, 1, 2]), (5, 1, [0]), (1, 4, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_evenly_spread(count: int, wanted: int, expected: list[int]) -> None:
    assert evenly(count, wanted).tolist() == expected


SIZES = [(9, 10), (16, 7), (9, 10), (30, 8), (12, 12)]


def own_sizes(seed: int) -> list[np.ndarray]:
    return [noise(*size, 3, seed=seed + n) for n, size in enumerate(SIZES)]


def test_images_at_their_own_sizes_are_measured_one_by_one(pack: Pack, linear: Linear) -> None:
    a, b = own_sizes(1), own_sizes(10)
    dataset = pack(a, b, pairs=[(0, 2, True), (2, 0, True), (3, 3, True), (1, 1, False)])
    rng = np.random.default_rng(3)
    networks = {"AtoB": (rng.normal(size=(3, 3)) / 3, 0.1), "BtoA": (rng.normal(size=(3, 3)) / 3, -0.2)}
    translators = {direction: Translator(linear(*network), batch_size=2) for direction, network in networks.items()}
    evaluation = evaluate(translators, dataset, "test")

    outputs = [to_integer(through(*networks["AtoB"], image[None]), 8) for image in a]
    table = evaluation.per_image[evaluation.per_image["direction"] == "AtoB"]
    rows_A, rows_B = (table[table["domain"] == domain].reset_index(drop=True) for domain in "AB")
    assert list(rows_A["id"]) == dataset.ids("A", "test")
    partners = {0: 2, 2: 0, 3: 3, 1: 1}
    for n, image in enumerate(a):
        assert rows_A["change_l1"][n] == pytest.approx(l1(outputs[n], image[None])[0], abs=1e-9)
        matrix, offset = networks["BtoA"]
        back = to_integer(through(*networks["AtoB"], image[None]) @ matrix + offset, 8)
        assert rows_A["cycle_l1"][n] == pytest.approx(l1(back, image[None])[0], abs=1e-9)
        if n in partners:
            truth = b[partners[n]][None]
            assert rows_A["pair_psnr"][n] == pytest.approx(psnr(outputs[n], truth)[0], abs=1e-9)
            assert rows_A["pair_ssim"][n] == pytest.approx(ssim(outputs[n], truth)[0], abs=1e-9)
        else:
            assert np.isnan(rows_A["pair_psnr"][n])
    for n, image in enumerate(b):
        same = to_integer(through(*networks["AtoB"], image[None]), 8)
        assert rows_B["identity_l1"][n] == pytest.approx(l1(same, image[None])[0], abs=1e-9)
    assert evaluation.metrics["AtoB"]["pair_n"] == 3
    assert evaluation.metrics["protocol"]["resolution"] == {"height": [9, 30], "width": [7, 12]}


def nine_means(images: np.ndarray) -> np.ndarray:
    """The fixture `network`, in NumPy."""
    bands = np.split(images[:, : images.shape[1] // 3 * 3] / 255, 3, axis=1)
    return np.concatenate([band.mean(axis=(1, 2)) for band in bands], axis=1)


def test_each_metric_on_features_equals_its_definition(pack: Pack, linear: Linear, network: FeatureNetwork) -> None:
    a, b = noise(9, 9, 10, 3, seed=1), noise(7, 9, 10, 3, seed=2) // 2
    pairs = [(0, 3, True), (4, 1, True), (5, 6, True), (2, 0, False)]
    dataset = pack(a, b, pairs=pairs)
    matrix, offset = np.random.default_rng(3).normal(size=(3, 3)) / 3, 0.1
    translators = {direction: Translator(linear(matrix, offset), batch_size=4) for direction in ("AtoB", "BtoA")}
    color_map = ColorMap(np.vstack([np.full((1, 3), 0.2), np.eye(3) / 2, np.zeros((6, 3))]), 8)
    evaluation = evaluate(translators, dataset, "test", RealImages(dataset, "test", network, 4), {"AtoB": color_map})

    metrics = evaluation.metrics["AtoB"]
    outputs = to_integer(through(matrix, offset, a), 8)
    mapped = to_integer(to_float(a) / 2 + 0.2, 8)
    real = nine_means(b)
    index, partner = [0, 4, 5], [3, 1, 6]
    for made, got in ((outputs, metrics), (a, metrics["identity"]), (mapped, metrics["color_map"])):
        features = nine_means(made)
        expected = kid(features, real)
        assert got["kid"] == pytest.approx(expected.value, rel=1e-4, abs=1e-9)
        assert got["kid_se"] == pytest.approx(expected.error, rel=1e-4, abs=1e-9)
        assert got["frechet"] == pytest.approx(frechet_distance(features, real), rel=1e-4)
        assert (got["precision"], got["recall"]) == precision_recall(features, real)
        assert got["diversity"] == pytest.approx(mean_distance(features) / mean_distance(real), rel=1e-4)
        places = ranks(features[index], real, np.array(partner))
        assert got["pair_top1"] == np.mean(places == 1)
        assert got["pair_top5"] == np.mean(places <= 5)
        assert got["pair_perceptual"] == pytest.approx(cosine_distance(features[index], real[partner]).mean(), rel=1e-4)
        assert got["pair_psnr"] == pytest.approx(psnr(made[index], b[partner]).mean())
    assert 0 < metrics["pair_top5"] < 1 or 0 < metrics["identity"]["pair_top5"] < 1
    features = nine_means(outputs)
    assert metrics["change_perceptual"] == pytest.approx(cosine_distance(features, nine_means(a)).mean(), rel=1e-4)
    assert metrics["input_top1"] == np.mean(ranks(features, nine_means(a), np.arange(9)) == 1)
    assert "checkerboard" not in metrics  # Images of 9×10 pixels are too small.
    assert metrics["identity"]["change_l1"] == metrics["identity"]["change_perceptual"] == 0
    assert "color_map" not in evaluation.metrics["BtoA"]

    table = evaluation.per_image
    rows = table[(table["direction"] == "AtoB") & (table["domain"] == "A")]
    similar = np.argmax(features @ real.T / np.linalg.norm(real, axis=1), axis=1)
    assert list(rows["nearest"]) == [f"testB/{n}" for n in similar]
    assert rows["change_perceptual"].mean() == pytest.approx(metrics["change_perceptual"])
    protocol = evaluation.metrics["protocol"]
    assert protocol["features"] == {"network": "nine means", "dimensions": 9, "sha256": "f" * 64}
    assert "fid" not in json.dumps(evaluation.metrics, allow_nan=False).lower()


def test_unchanged_input_is_its_own_baseline_on_features(
    few: PackedDataset, unchanged: dict[str, Translator], network: FeatureNetwork
) -> None:
    metrics = evaluate(unchanged, few, "test", RealImages(few, "test", network)).metrics
    for direction in ("AtoB", "BtoA"):
        found = metrics[direction]
        assert found["identity"] == pytest.approx({key: found[key] for key in found["identity"]}, abs=1e-9)
        assert {"kid", "frechet", "precision", "recall", "pair_top1", "pair_perceptual"} <= set(found["identity"])
        assert found["change_perceptual"] == pytest.approx(0, abs=1e-12)
        assert found["input_top1"] == 1
        assert found["luminance_correlation"] == pytest.approx(1)
        assert 0.5 < found["checkerboard"] < 2


@pytest.mark.parametrize(
    ("count", "keys"),
    [(1, set()), (2, {"kid", "frechet"}), (4, {"kid", "kid_se", "frechet", "precision", "recall"})],
)
def test_few_images_allow_few_metrics(
    pack: Pack, unchanged: dict[str, Translator], network: FeatureNetwork, count: int, keys: set[str]
) -> None:
    dataset = pack(noise(count, 9, 9, 3), noise(5, 9, 9, 3))
    metrics = evaluate(unchanged, dataset, "test", RealImages(dataset, "test", network)).metrics
    of_sets = {"kid", "kid_se", "frechet", "precision", "recall"}
    assert set(metrics["AtoB"]) & of_sets == keys
    json.dumps(metrics, allow_nan=False)


def test_images_at_their_own_sizes_have_features(
    pack: Pack, unchanged: dict[str, Translator], network: FeatureNetwork
) -> None:
    a, b = own_sizes(1), own_sizes(10)
    dataset = pack(a, b)
    real = RealImages(dataset, "test", network)
    np.testing.assert_allclose(real.features("B"), [nine_means(image[None])[0] for image in b], rtol=1e-5)
    metrics = evaluate(unchanged, dataset, "test", real).metrics
    assert metrics["AtoB"]["kid"] == pytest.approx(metrics["AtoB"]["identity"]["kid"], rel=1e-6)
