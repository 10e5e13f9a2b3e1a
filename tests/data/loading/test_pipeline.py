"""Training batches: every image once a pass, random order and crops, and a function of the step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cyclegan.data.loading import pipeline
from cyclegan.data.loading.dataset import ImageSet, RaggedImages
from cyclegan.data.loading.pipeline import (
    ResidentBatches,
    Shares,
    fit_on_device,
    steps_per_epoch,
    training_batches,
)


def numbered(count: int, size: int = 6, dtype: type = np.uint8) -> np.ndarray:
    """Images with their number in channel 0, their row in channel 1 and their column in channel 2."""
    images = np.zeros((count, size, size, 3), dtype)
    images[..., 0] = np.arange(count)[:, None, None]
    images[..., 1] = np.arange(size)[None, :, None]
    images[..., 2] = np.arange(size)[None, None, :]
    return images


def take(count: int, *, start_step: int = 0, batch_size: int = 1, flip: bool = True, crop: int = 4) -> list[np.ndarray]:
    """Batches of both domains as the original integers: `[2, N, h, w, C]` each."""
    batches = training_batches(
        numbered(7),
        numbered(5),
        batch_size=batch_size,
        crop_size=(crop, crop),
        flip=flip,
        seed=1,
        start_step=start_step,
    )
    return [np.rint((np.stack(pair) + 1) * 127.5).astype(int) for pair in batches.take(count).as_numpy_iterator()]


def test_the_same_step_has_the_same_batch_wherever_one_starts() -> None:
    np.testing.assert_array_equal(take(20)[9:], take(11, start_step=9))


def test_every_pass_sees_every_image_once_in_a_new_order() -> None:
    drawn = np.array([[batch[domain, 0, 0, 0, 0] for batch in take(70)] for domain in (0, 1)])
    passes_A, passes_B = drawn[0].reshape(10, 7), drawn[1].reshape(14, 5)
    assert all(sorted(order) == list(range(7)) for order in passes_A.tolist())
    assert all(sorted(order) == list(range(5)) for order in passes_B.tolist())
    assert len({tuple(order) for order in passes_A.tolist()}) > 5
    assert len({tuple(order) for order in passes_B.tolist()}) > 5


def test_batches_continue_in_the_same_order() -> None:
    single = np.concatenate([batch[:, :, 0, 0, 0] for batch in take(12)], axis=1)
    triple = np.concatenate([batch[:, :, 0, 0, 0] for batch in take(4, batch_size=3)], axis=1)
    np.testing.assert_array_equal(single, triple)


def test_crops_and_flips_are_random_and_whole() -> None:
    corners, flipped = set(), 0
    for batch in take(200):
        rows, columns = batch[0, 0, :, 0, 1], batch[0, 0, 0, :, 2]
        assert np.all(np.diff(rows) == 1)
        assert abs(np.diff(columns)).tolist() == [1, 1, 1]
        flipped += columns[0] > columns[1]
        corners.add((rows.min(), columns.min()))
    assert corners == {(top, left) for top in range(3) for left in range(3)}
    assert abs(flipped - 100) < 4 * np.sqrt(200 * 0.25)


def test_without_flip_and_crop_images_stay_whole() -> None:
    for batch in take(5, flip=False, crop=6):
        np.testing.assert_array_equal(batch[0, 0, :, :, 1:], numbered(1)[0, :, :, 1:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_fill_minus_one_to_one(dtype: type) -> None:
    largest = np.iinfo(dtype).max
    images = np.stack([np.zeros((4, 4, 1), dtype), np.full((4, 4, 1), largest, dtype)])
    batches = training_batches(images, images, batch_size=2, crop_size=(4, 4), flip=False, seed=0)
    (first, _) = next(batches.as_numpy_iterator())
    assert first.dtype == np.float32
    assert sorted(np.unique(first).tolist()) == [-1.0, 1.0]


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(10, 4) == 2
    assert steps_per_epoch(3, 4) == 1


def as_ragged(images: list[np.ndarray]) -> RaggedImages:
    pixels = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    return RaggedImages(pixels, np.array([image.shape[:2] for image in images]))


def test_images_of_one_size_give_the_same_batches_in_both_formats() -> None:
    options = {"batch_size": 2, "crop_size": (4, 5), "flip": True, "seed": 3}
    flat = training_batches(numbered(7), numbered(5), **options)
    ragged = training_batches(as_ragged(list(numbered(7))), as_ragged(list(numbered(5))), **options)
    for one, other in zip(flat.take(10).as_numpy_iterator(), ragged.take(10).as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_crops_of_images_of_their_own_sizes_are_whole_and_reach_everywhere() -> None:
    sizes = [(4, 5), (9, 6), (5, 12), (20, 7)]
    # Channel 0 holds the image's number, channels 1 and 2 its row and column.
    originals = [numbered(1, 20)[0, :height, :width].copy() for height, width in sizes]
    for number, image in enumerate(originals):
        image[..., 0] = number
    images = as_ragged(originals)
    batches = training_batches(images, images, batch_size=1, crop_size=(4, 5), flip=False, seed=0)
    corners: dict[int, set[tuple[int, int]]] = {}
    for batch, _ in batches.take(1200).as_numpy_iterator():
        (crop,) = np.rint((batch + 1) * 127.5).astype(int)
        number, top, left = crop[0, 0].tolist()
        np.testing.assert_array_equal(crop, originals[number][top : top + 4, left : left + 5])
        corners.setdefault(number, set()).add((top, left))
    for number, (height, width) in enumerate(sizes):
        assert corners[number] == {(top, left) for top in range(height - 3) for left in range(width - 4)}


def noise(count: int, height: int, width: int, channels: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, np.iinfo(dtype).max + 1, (count, height, width, channels), dtype)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        ((noise(7, 9, 6, 3), noise(5, 9, 6, 3)), {}),
        ((noise(7, 9, 6, 3), noise(5, 8, 7, 1)), {"batch_size": 3}),
        ((noise(4, 6, 6, 4, np.uint16), noise(3, 6, 6, 2, np.uint16)), {"flip": False}),
        ((as_ragged([*noise(2, 4, 9, 3), *noise(3, 12, 5, 3)]), noise(5, 4, 5, 3)), {"batch_size": 2}),
    ],
    ids=["not square", "unequal channels and sizes", "16 bits, unmirrored", "each of its own size"],
)
def test_images_on_the_device_give_the_same_batches(images: tuple[ImageSet, ImageSet], options: dict[str, Any]) -> None:
    drawn = {"batch_size": 1, "crop_size": (4, 5), "flip": True, "seed": 3} | options
    resident = iter(ResidentBatches(*images, **drawn).starting_at(2))
    draw = tf.function(lambda: next(resident))
    for expected in training_batches(*images, **drawn, start_step=2).take(20):
        for one, other in zip(expected, draw(), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_images_beyond_the_budget_do_not_go_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "RESIDENT_BYTES", 2 * 7 * 6 * 6 * 3)
    assert fit_on_device(numbered(7), numbered(7))
    assert fit_on_device(as_ragged(list(numbered(7))), numbered(7))
    assert not fit_on_device(numbered(7), numbered(8))
    assert not fit_on_device(numbered(7), numbered(7, dtype=np.uint16))


@pytest.mark.slow
def test_memory_of_mapped_images_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read 200 MiB from files: at most 16 MiB are in memory at once, and the images are always right."""
    monkeypatch.setattr(pipeline, "KEPT_BYTES", 2**23)
    file = tmp_path / "packed.npy"
    images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(400, 512, 512, 1))
    images[:, 0, 0, 0] = np.arange(400) % 251
    images.flush()
    del images
    mapped = np.load(file, mmap_mode="r")
    batches = training_batches(mapped, mapped, batch_size=1, crop_size=(512, 512), flip=False, seed=0)
    held, seen = [], set()
    for one, _ in batches.take(400).as_numpy_iterator():
        seen.add(round((float(one[0, 0, 0, 0]) + 1) * 127.5))
        held.append(resident_kib(file))
    assert seen == set(range(251))
    assert max(held) < 64 * 1024
    assert max(held) > 0


def resident_kib(file: Path) -> int:
    """Size of the file's mapping in this process's memory."""
    found = Path("/proc/self/smaps").read_text(encoding="utf-8").partition(str(file))[2]
    return int(found.partition("Rss:")[2].split()[0])


@pytest.mark.parametrize(("hosts", "devices"), [(1, 2), (2, 1), (2, 2)])
def test_shares_are_parts_of_the_whole_batch(hosts: int, devices: int) -> None:
    images = numbered(7), numbered(5)
    drawn = {"batch_size": 4, "crop_size": (4, 4), "flip": True, "seed": 5, "start_step": 3}
    total = hosts * devices
    sources = [
        iter(training_batches(*images, **drawn, shares=Shares(host * devices, devices, total))) for host in range(hosts)
    ]
    for whole in training_batches(*images, **drawn).take(3):
        parts = [next(source) for source in sources for _ in range(devices)]
        for domain in (0, 1):
            joined = np.concatenate([part[domain].numpy() for part in parts])
            np.testing.assert_array_equal(joined, whole[domain].numpy())
