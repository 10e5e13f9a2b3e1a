"""Reading of packed data: complete data, or one message."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclegan import params
from cyclegan.data.loading.dataset import PackedDataset, RaggedImages, equal_batches, picked, sizes_of
from cyclegan.data.packing.pack import split
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.params import read
from cyclegan.project import Project
from cyclegan.system.errors import UserError

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def packed(project: Project, data: Callable[..., params.Data], paint_domains: Callable[..., None]) -> Path:
    paint_domains(project.raw, trainA=6, trainB=7)
    split(data(), project)
    return project.split


def test_reading(packed: Path) -> None:
    dataset = PackedDataset.open(packed)
    assert dataset.bit_depth == 8
    images = dataset.images("A", "train")
    assert isinstance(images, np.memmap)
    assert images.shape == (4, 16, 16, 3)
    assert not images.flags.writeable
    assert len(dataset.ids("B", "train")) == 5
    pairs = dataset.pairs("test")
    assert len(pairs) == 0
    assert pairs.index_A.dtype == np.int64
    assert pairs.scored.dtype == np.bool_
    assert pairs.ids == []


def test_digest_differs_between_test_splits(packed: Path, project: Project, data: Callable[..., params.Data]) -> None:
    before = PackedDataset.open(packed)
    test = before.digest("test")
    assert test != before.digest("val")
    # More validation images from train: the test split is the same.
    split(data(val_fraction=0.4), project)
    after = PackedDataset.open(packed)
    assert len(after.images("A", "val")) > len(before.images("A", "val"))
    assert after.digest("test") == test
    array = np.load(packed / "testB.npy")
    array[0, 0, 0, 0] ^= 1
    np.save(packed / "testB.npy", array)
    assert PackedDataset.open(packed).digest("test") != test


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["manifest.csv", "pairs.csv", "trainA.npy", "valB.npy", "testA.npy"])
@pytest.mark.parametrize("harm", [Path.unlink, halve, empty])
def test_incomplete_data(packed: Path, name: str, harm: Callable[[Path], object]) -> None:
    harm(packed / name)
    with pytest.raises(UserError, match=r"no complete packed data.*dvc repro split") as error:
        PackedDataset.open(packed)
    assert "\n" not in str(error.value)


def test_data_that_contradicts_the_manifest(packed: Path) -> None:
    lines = (packed / "manifest.csv").read_text().splitlines(keepends=True)
    (packed / "manifest.csv").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"testB.npy has shape \(1, 16, 16, 3\), but the manifest lists 0 images"):
        PackedDataset.open(packed)


def test_a_pickle_is_not_loaded(packed: Path) -> None:
    np.save(packed / "trainA.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no complete packed data"):
        PackedDataset.open(packed)


@pytest.mark.parametrize(("kind", "bit_depth"), [(np.uint8, 8), (np.uint16, 16)])
def test_every_value_survives_the_round_trip(kind: type[np.unsignedinteger], bit_depth: int) -> None:
    values = np.arange(2**bit_depth, dtype=kind)
    floats = to_float(values)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    back = to_integer(floats, bit_depth)
    assert back.dtype == kind
    np.testing.assert_array_equal(back, values)


def test_eight_bit_formula() -> None:
    values = np.array([0, 1, 100, 255], np.uint8)
    np.testing.assert_allclose(to_float(values), values / 127.5 - 1, atol=1e-7)


@given(st.floats(-1e6, 1e6))
def test_floats_out_of_range_are_clipped(value: float) -> None:
    expected = 0 if value <= -1 else 255 if value >= 1 else round((value + 1) * 127.5)
    assert abs(int(to_integer(np.array([value]), 8)[0]) - expected) <= 1
    if abs(value) >= 1:
        assert int(to_integer(np.array([value]), 8)[0]) == expected


def test_reading_needs_no_heavy_package() -> None:
    code = (
        "import sys, cyclegan.data.loading.dataset; print({'tensorflow', 'keras', 'mlflow', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["manifest.csv", "trainA.npy", "testB.npy"])
@pytest.mark.parametrize("harm", [halve, empty])
def test_incomplete_data_of_own_sizes(
    project: Project,
    data: Callable[..., params.Data],
    paint_domains: Callable[..., None],
    name: str,
    harm: Callable[[Path], object],
) -> None:
    paint_domains(project.raw, trainA=6, trainB=7)
    split(data(load_size="original"), project)
    harm(project.split / name)
    with pytest.raises(UserError, match=r"no complete packed data.*dvc repro split"):
        PackedDataset.open(project.split)


def test_a_manifest_of_other_sizes_is_noticed(
    project: Project, data: Callable[..., params.Data], paint_domains: Callable[..., None]
) -> None:
    paint_domains(project.raw, trainA=6, trainB=7)
    split(data(load_size="original"), project)
    manifest = project.split / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",20,16,", ",20,15,"))
    with pytest.raises(UserError, match="1280 pixels, but the sizes need 1200"):
        PackedDataset.open(project.split)


def ragged(sizes: list[tuple[int, int]], channels: int = 3) -> tuple[RaggedImages, list[np.ndarray]]:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, channels)).astype(np.uint8) for size in sizes]
    pixels = np.concatenate([image.reshape(-1, channels) for image in images])
    return RaggedImages(pixels, np.array(sizes)), images


image_sizes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12)


@given(sizes=image_sizes, batch_size=st.integers(1, 5))
def test_images_of_their_own_sizes(sizes: list[tuple[int, int]], batch_size: int) -> None:
    images, originals = ragged(sizes)
    assert len(images) == len(originals)
    for got, expected in zip(images, originals, strict=True):
        np.testing.assert_array_equal(got, expected)
    rows = np.arange(len(sizes))[::-2]
    for got, row in zip(picked(images, rows), rows, strict=True):
        np.testing.assert_array_equal(got, originals[row])
    np.testing.assert_array_equal(sizes_of(images), sizes)
    batches = list(equal_batches(images, batch_size))
    assert sorted(np.concatenate(batches)) == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        np.testing.assert_array_equal(images[batch], np.stack([originals[n] for n in batch]))
    # No more batches than necessary for the sizes.
    counts = [sizes.count(size) for size in set(sizes)]
    assert len(batches) == sum(-(-count // batch_size) for count in counts)


@given(count=st.integers(1, 12), batch_size=st.integers(1, 5))
def test_images_of_one_size_stay_in_order(count: int, batch_size: int) -> None:
    images = np.zeros((count, 3, 2, 1), np.uint8)
    assert np.concatenate(list(equal_batches(images, batch_size))).tolist() == list(range(count))
    np.testing.assert_array_equal(sizes_of(images), [[3, 2]] * count)
    assert picked(images, np.array([0])).shape == (1, 3, 2, 1)


def test_what_own_sizes_do_not_allow() -> None:
    images, _ = ragged([(2, 3), (3, 2)])
    with pytest.raises(ValueError, match="same shape"):
        images[np.array([0, 1])]
    with pytest.raises(IndexError):
        images[2]


FILES = ("manifest.csv", "pairs.csv", "trainA.npy", "testB.npy", "valA.npy")


def read_all(folder: Path) -> None:
    """Read everything that the stages use of a data set, or get one line with the remedy."""
    try:
        dataset = PackedDataset.open(folder)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (either outcome is right)
        assert "dvc repro split" in str(error)  # noqa: PT017
        return
    for split_name in ("train", "val", "test"):
        pairs = dataset.pairs(split_name)
        for domain, index in (("A", pairs.index_A), ("B", pairs.index_B)):
            images = dataset.images(domain, split_name)
            assert len(dataset.ids(domain, split_name)) == len(images) == len(sizes_of(images))
            for row in (*range(len(images)), *index):
                assert images[int(row)].ndim == 3


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A packed data set with pairs, as its files."""
    root = tmp_path_factory.mktemp("kept")
    project = Project(root=root, home=root)
    for domain in "AB":
        (project.raw / f"train{domain}").mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng([number, ord(domain)]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(project.raw / f"train{domain}" / f"{number}.png")
    lines = [f"trainA/{number}.png,trainB/{number}.png" for number in range(8)]
    (project.raw / "pairs.csv").write_text("\n".join(["A,B", *lines]))
    tree = read(REPOSITORY / "params.yaml")["data"] | {"load_size": 8}
    split(params.Data.model_validate(tree), project)
    return {path.name: path.read_bytes() for path in project.split.iterdir()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1) | st.just(1.0),
)
def test_corrupt_bytes_are_reported_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    kept: dict[str, bytes],
    name: str,
    changes: list[tuple[float, int]],
    cut: float,
) -> None:
    raw = bytearray(kept[name])
    for where, value in changes:
        raw[int(where * len(raw))] = value
    folder = tmp_path_factory.mktemp("damaged")
    for other, content in kept.items():
        (folder / other).write_bytes(raw[: int(cut * len(raw))] if other == name else content)
    read_all(folder)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["manifest.csv", "pairs.csv"]),
    row=st.integers(0, 7),
    column=st.integers(0, 9),
    value=st.sampled_from(
        ["", "-1", "0", "7", "1e9", "NaN", "train", "test", "A", "B", "C", "x", "99999999999999999999"]
    )
    | st.text(max_size=6),
)
def test_altered_tables_are_reported_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, kept: dict[str, bytes], name: str, row: int, column: int, value: str
) -> None:
    table = pd.read_csv(io.BytesIO(kept[name]), dtype=str, keep_default_na=False)
    table.iloc[row % len(table), column % len(table.columns)] = value
    folder = tmp_path_factory.mktemp("altered")
    for other, content in kept.items():
        (folder / other).write_bytes(content)
    table.to_csv(folder / name, index=False)
    read_all(folder)
