"""Packed data sets as stage `split` writes them, and generators with a known effect."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.models.translator import Translator

EMOJI = Path(__file__).parents[1] / "data" / "fluent-emoji"


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., PackedDataset]:
    """Write images of one split as a packed data set and open it; `pairs` holds (index_A, index_B, scored).

    A list of images is packed at the images' own sizes.
    """

    def write(
        images_A: np.ndarray | list[np.ndarray],
        images_B: np.ndarray | list[np.ndarray],
        *,
        split: str = "test",
        ids: Mapping[str, Sequence[str]] | None = None,
        pairs: Sequence[tuple[int, int, bool]] = (),
    ) -> PackedDataset:
        ids = ids or {
            domain: [f"{split}{domain}/{n}" for n in range(len(images))]
            for domain, images in (("A", images_A), ("B", images_B))
        }
        folder = tmp_path / "split"
        folder.mkdir()
        rows = []
        for domain, images in (("A", images_A), ("B", images_B)):
            packed = images
            if isinstance(images, list):
                packed = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
            for name in ("train", "val", "test"):
                np.save(folder / f"{name}{domain}.npy", packed if name == split else packed[:0])
            for index, id_ in enumerate(ids[domain]):
                height, width = images[index].shape[:2]
                rows.append([id_, domain, split, index, f"{id_}.png", "whole", width, height, "RGB", f"{index:064x}"])
        columns = ["id", "domain", "split", "index", "file", "part", "width", "height", "mode", "sha256"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
        pd.DataFrame(
            [[split, a, b, ids["A"][a], ids["B"][b], str(scored).lower()] for a, b, scored in pairs],
            columns=["split", "index_A", "index_B", "id_A", "id_B", "scored"],
        ).to_csv(folder / "pairs.csv", index=False)
        return PackedDataset.open(folder)

    return write


def emoji_pairs(pack: Callable[..., PackedDataset], every: int) -> PackedDataset:
    with (EMOJI / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"][::every]
    images = {
        domain: np.stack([np.asarray(Image.open(EMOJI / row[domain]).convert("RGB")) for row in rows])
        for domain in ("A", "B")
    }
    return pack(
        images["A"],
        images["B"],
        ids={domain: [row[domain].removesuffix(".png") for row in rows] for domain in ("A", "B")},
        pairs=[(n, n, row["scored"] == "true") for n, row in enumerate(rows)],
    )


@pytest.fixture
def emoji(pack: Callable[..., PackedDataset]) -> PackedDataset:
    """The 245 test pairs of the embedded data, in the order of `pairs.csv`."""
    return emoji_pairs(pack, 1)


@pytest.fixture
def few(pack: Callable[..., PackedDataset]) -> PackedDataset:
    """Every fifth of the 245 test pairs."""
    return emoji_pairs(pack, 5)


@pytest.fixture
def linear() -> Callable[..., keras.Model]:
    """Make a generator that multiplies each pixel's channels by a matrix [C, C_out] and adds `offset` (in [-1, 1])."""

    def build(matrix: np.ndarray, offset: float = 0.0) -> keras.Model:
        image = keras.Input((None, None, len(matrix)))
        layer = keras.layers.Conv2D(matrix.shape[1], 1)
        model = keras.Model(image, layer(image))
        layer.set_weights([matrix[None, None].astype(np.float32), np.full(matrix.shape[1], offset, np.float32)])
        return model

    return build


@pytest.fixture
def unchanged(linear: Callable[..., keras.Model]) -> dict[str, Translator]:
    """Generators that return their input."""
    return {direction: Translator(linear(np.eye(3)), batch_size=16) for direction in ("AtoB", "BtoA")}


@pytest.fixture
def network() -> FeatureNetwork:
    """A network of nine features that are quick to compute: the mean colors of an image in three bands."""

    def means(images: tf.Tensor) -> tf.Tensor:
        bands = tf.split(tf.cast(images[:, : images.shape[1] // 3 * 3], tf.float32) / 255, 3, axis=1)
        return tf.concat([tf.reduce_mean(band, axis=(1, 2)) for band in bands], axis=1)

    return FeatureNetwork("nine means", 9, "f" * 64, means)
