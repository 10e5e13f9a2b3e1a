from __future__ import annotations

import csv
import hashlib
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from cyclegan import params
from cyclegan.data.images.decode import decode, resize
from cyclegan.data.loading.dataset import PackedDataset, RaggedImages
from cyclegan.data.packing.pack import split
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from refusals import holds

REPOSITORY = Path(__file__).parents[3]
Build = Callable[..., params.Data]
Paint = Callable[..., Path]


def report(project: Project) -> dict[str, dict[str, object]]:
    return json.loads((project.reports / "split.json").read_text(encoding="utf-8"))


def counts(project: Project) -> dict[str, dict[str, int]]:
    return {domain: report(project)[domain]["counts"] for domain in "AB"}  # type: ignore[misc]


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def places(project: Project) -> dict[str, str]:
    """File → split."""
    manifest = PackedDataset.open(project.split).manifest
    return dict(zip(manifest["file"], manifest["split"], strict=True))


def write_pairs(project: Project, rows: list[dict[str, str]]) -> None:
    with (project.raw / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def raw(project: Project, paint_domains: Callable[..., None]) -> Callable[..., None]:
    return lambda **folders: paint_domains(project.raw, **folders)


def test_the_emoji_set(project: Project, data: Build) -> None:
    shutil.copytree(REPOSITORY / "data" / "fluent-emoji", project.raw)
    split(data(load_size=64), project)
    # One flat image of trainA is pixel for pixel an image of testA.
    assert counts(project) == {
        "A": {"train": 605, "val": 96, "test": 245},
        "B": {"train": 615, "val": 96, "test": 245},
    }
    assert report(project)["duplicates_taken_out_of_train"] == {
        "count": 1,
        "first": {"trainA/1f431.png": "identical with testA/1f63a.png"},
    }
    assert report(project)["pairs"] == {"train": 0, "val": 96, "test": 245}
    assert report(project)["scored_pairs"] == {"train": 0, "val": 96, "test": 233}
    dataset = PackedDataset.open(project.split)
    test = dataset.pairs("test")
    a = dataset.images("A", "test")[test.index_A][test.scored]
    b = dataset.images("B", "test")[test.index_B][test.scored]
    # The identity baseline that was measured on these pairs independently.
    assert np.abs(a.astype(float) - b).mean() / 255 == pytest.approx(0.0576, abs=5e-5)
    assert list(test.carried.columns) == [
        "code", "name", "short", "category", "subcategory", "group", "mask_iou"
    ]  # fmt: skip


def test_pixels_are_at_the_positions_of_the_manifest(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=12, trainB=7, testA=2)
    split(data(load_size=[16, 24], channels_A=1), project)
    dataset = PackedDataset.open(project.split)
    for row in dataset.manifest.itertuples():
        expected = resize(decode(project.raw / row.file, 1 if row.domain == "A" else 3, 8).pixels, (16, 24))
        np.testing.assert_array_equal(dataset.images(row.domain, row.split)[row.index], expected)
        assert (row.width, row.height, row.mode, row.part) == (20, 16, "RGB", "whole")
    for domain in "AB":
        for part in ("train", "val", "test"):
            assert dataset.ids(domain, part) == sorted(dataset.ids(domain, part))
    assert len(dataset.manifest) == 21


def test_the_sources_own_splits_stand(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=10, trainB=10, valA=3, valB=2, testA=4, testB=1)
    split(data(), project)
    assert counts(project) == {
        "A": {"train": 10, "val": 3, "test": 4},
        "B": {"train": 10, "val": 2, "test": 1},
    }


def test_missing_splits_come_out_of_train(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=20, trainB=11, testB=4)
    split(data(val_fraction=0.1, test_fraction=0.25), project)
    assert counts(project) == {
        "A": {"train": 13, "val": 2, "test": 5},
        "B": {"train": 10, "val": 1, "test": 4},
    }


def test_leftovers_of_a_killed_fetch_are_removed(project: Project, data: Build, raw: Callable[..., None]) -> None:
    """DVC may bring the output of fetch from its run cache, in which case fetch does not run again to remove it."""
    raw(trainA=10, trainB=10)
    for name in (".raw.new", ".raw.old"):
        (project.raw.with_name(name) / "trainA").mkdir(parents=True)
    split(data(), project)
    assert {path.name for path in project.raw.parent.iterdir()} == {"raw", "split"}


def test_a_seed_chooses(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=20, trainB=20)
    found = []
    for seed in (1, 2, 1):
        split(data(seed=seed), project)
        found.append(places(project))
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_one_more_image_moves_few_others(project: Project, data: Build, raw: Callable[..., None], paint: Paint) -> None:
    raw(trainA=50, trainB=50)
    split(data(), project)
    before = places(project)
    paint(project.raw / "trainA" / "0000 new.png", 9999)
    split(data(), project)
    after = places(project)
    assert sum(after[file] != before[file] for file in before) <= 2


def test_the_same_input_gives_the_same_bytes(
    project: Project, data: Build, raw: Callable[..., None], tmp_path: Path
) -> None:
    raw(trainA=30, trainB=30)
    write_pairs(project, [{"A": f"trainA/{i:03}.png", "B": f"trainB/{i:03}.png"} for i in range(30)])
    split(data(), project)
    first, first_report = sums(project.split), (project.reports / "split.json").read_bytes()
    elsewhere = Project(root=tmp_path / "other", home=tmp_path / "other")
    shutil.copytree(project.raw, elsewhere.raw)
    split(data(), elsewhere)
    assert sums(elsewhere.split) == first
    assert (elsewhere.reports / "split.json").read_bytes() == first_report
    assert set(first) == {
        "manifest.csv", "pairs.csv", "left_out.csv",
        "trainA.npy", "trainB.npy", "valA.npy", "valB.npy", "testA.npy", "testB.npy",
    }  # fmt: skip


def test_pairs_stay_together(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=20, trainB=20)
    write_pairs(project, [{"A": f"trainA/{i:03}.png", "B": f"trainB/{19 - i:03}.png"} for i in range(20)])
    split(data(), project)
    found = places(project)
    for i in range(20):
        assert found[f"trainA/{i:03}.png"] == found[f"trainB/{19 - i:03}.png"]
    assert report(project)["pairs"] == {"train": 12, "val": 4, "test": 4}
    dataset = PackedDataset.open(project.split)
    for part in ("train", "val", "test"):
        pairs = dataset.pairs(part)
        assert len(pairs) > 0
        assert pairs.scored.all()
        for row in range(len(pairs)):
            assert int(pairs.id_A[row][-3:]) + int(pairs.id_B[row][-3:]) == 19
            assert dataset.ids("A", part)[pairs.index_A[row]] == pairs.id_A[row]
            assert dataset.ids("B", part)[pairs.index_B[row]] == pairs.id_B[row]


def test_groups_leave_train_together(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=30, trainB=30)
    rows = [{"A": f"trainA/{i:03}.png", "B": "", "group": f"g{i // 5}"} for i in range(30)]
    rows += [{"A": "", "B": f"trainB/{i:03}.png", "group": f"g{i // 5}"} for i in range(30)]
    write_pairs(project, rows)
    split(data(), project)
    found = places(project)
    for group in range(6):
        members = {found[f"train{d}/{i:03}.png"] for d in "AB" for i in range(5 * group, 5 * group + 5)}
        assert len(members) == 1
    assert set(found.values()) == {"train", "val", "test"}
    assert len(PackedDataset.open(project.split).pairs("val")) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_group_larger_than_a_split_stays_in_training(
    seed: int, project: Project, data: Build, raw: Callable[..., None]
) -> None:
    raw(trainA=30, trainB=30)
    write_pairs(
        project,
        [
            {"A": f"trainA/{i:03}.png", "B": f"trainB/{i:03}.png", "group": "large" if i < 15 else f"g{i}"}
            for i in range(30)
        ],
    )
    split(data(seed=seed), project)
    assert counts(project)["A"] == {"train": 18, "val": 6, "test": 6}


def test_where_every_group_is_larger_than_a_split_the_smallest_is_taken(
    project: Project, data: Build, raw: Callable[..., None]
) -> None:
    raw(trainA=30, trainB=30)
    groups = ["a"] * 8 + ["b"] * 9 + ["c"] * 13
    write_pairs(
        project,
        [{"A": f"trainA/{i:03}.png", "B": f"trainB/{i:03}.png", "group": group} for i, group in enumerate(groups)],
    )
    split(data(), project)
    assert counts(project)["A"] == {"train": 13, "val": 9, "test": 8}


def test_scored_and_other_columns_are_carried(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=4, trainB=4, testA=2, testB=2)
    rows = [
        {"code": "007", "A": "testA/000.png", "B": "testB/001.png", "scored": "False", "index_A": "99", "note": "NA"},
        {"code": "1e5", "A": "testA/001.png", "B": "testB/000.png", "scored": "true", "index_A": "99", "note": 'x,"\n'},
        {"code": "x", "A": "testA/001.png".replace("1", "2"), "B": "", "scored": "true", "index_A": "", "note": ""},
    ]
    write_pairs(project, rows[:2])
    split(data(), project)
    pairs = PackedDataset.open(project.split).pairs("test")
    assert pairs.index_A.tolist() == [0, 1]
    assert pairs.index_B.tolist() == [1, 0]
    assert pairs.scored.tolist() == [False, True]
    assert pairs.carried.to_dict("list") == {"code": ["007", "1e5"], "note": ["NA", 'x,"\n']}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"A": "trainA/000.png", "C": ""}], "has no column B"),
        ([{"A": "trainA/999.png", "B": ""}], "column A .*'trainA/999.png'.* domain A"),
        ([{"A": "trainB/000.png", "B": ""}], "column A .*'trainB/000.png'.* domain A"),
        ([{"A": "trainA/000.png", "B": ""}] * 2, "column A .*'trainA/000.png' twice"),
        ([{"A": "", "B": "", "scored": "maybe"}], "column scored .*'maybe'.* true or false"),
    ],
)
def test_a_wrong_pair_table(
    project: Project, data: Build, raw: Callable[..., None], rows: list[dict[str, str]], message: str
) -> None:
    raw(trainA=5, trainB=5)
    write_pairs(project, rows)
    with pytest.raises(UserError, match=message) as error:
        split(data(), project)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_pairs_of_names_in_another_form_of_unicode(
    project: Project, data: Build, raw: Callable[..., None], paint: Paint, on_disk: str, in_table: str
) -> None:
    raw(trainA=5, trainB=5)
    names = [f"bäume-é{n}.png" for n in range(3)]
    for domain, seed in (("A", 500), ("B", 600)):
        for n, name in enumerate(names):
            paint(project.raw / f"test{domain}" / unicodedata.normalize(on_disk, name), seed + n)
    table_names = [unicodedata.normalize(in_table, name) for name in names]
    write_pairs(project, [{"A": f"testA/{name}", "B": f"testB/{name}"} for name in table_names])
    split(data(), project)
    assert report(project)["pairs"] == {"train": 0, "val": 0, "test": 3}


def test_an_exact_name_goes_before_another_form(
    project: Project, data: Build, raw: Callable[..., None], paint: Paint
) -> None:
    raw(trainA=5, trainB=5, testB=2)
    forms = [unicodedata.normalize(form, "testA/ä.png") for form in ("NFC", "NFD")]
    for seed, file in enumerate(forms):
        paint(project.raw / file, 700 + seed)
    write_pairs(project, [{"A": file, "B": f"testB/00{n}.png"} for n, file in enumerate(forms)])
    split(data(), project)
    pairs = PackedDataset.open(project.split).pairs("test")
    assert dict(zip(pairs.id_A, pairs.id_B, strict=True)) == {
        file.removesuffix(".png"): f"testB/00{n}" for n, file in enumerate(forms)
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A,B\ntrainA\\000.png,\n", r"'trainA\\\\000.png'.* domain A; .*/ instead of"),
        ("A,B\ntraina/000.PNG,\n", r"'traina/000.PNG'.*; did you mean 'trainA/000.png'\?"),
        ("A;B\ntrainA/000.png;\n", "pairs.csv: .*semicolons; .*commas"),
        ("A\tB\ntrainA/000.png\t\n", "pairs.csv: .*tabs; .*commas"),
        ("A,B\ntrainA/000.png,\n".encode("utf-16"), "pairs.csv: .*UTF-16; .*UTF-8"),
        ("A,B\ntrainA/ä.png,\n".encode("latin-1"), "pairs.csv: .*not UTF-8; .*UTF-8"),
    ],
)
def test_pair_tables_of_spreadsheets(
    project: Project, data: Build, raw: Callable[..., None], content: str | bytes, message: str
) -> None:
    raw(trainA=5, trainB=5)
    (project.raw / "pairs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        split(data(), project)
    assert "\n" not in str(error.value)


def test_side_by_side_pairs(project: Project, data: Build, paint: Paint) -> None:
    for i in range(10):
        paint(project.raw / "train" / f"{i}.png", i, 32, 16)
    paint(project.raw / "test" / "0.png", 99, 32, 16)
    split(data(channels_A=1), project)
    assert counts(project) == {"A": {"train": 8, "val": 2, "test": 1}, "B": {"train": 8, "val": 2, "test": 1}}
    assert report(project)["scored_pairs"] == {"train": 8, "val": 2, "test": 1}
    dataset = PackedDataset.open(project.split)
    whole = decode(project.raw / "test" / "0.png", 3, 8).pixels
    np.testing.assert_array_equal(dataset.images("B", "test")[0], whole[:, 16:])
    assert dataset.images("A", "test").shape == (1, 16, 16, 1)
    assert dataset.ids("A", "test") == dataset.ids("B", "test") == ["test/0"]


def test_a_pair_must_be_twice_as_wide_as_high(project: Project, data: Build, paint: Paint) -> None:
    for i in range(6):
        paint(project.raw / "train" / f"{i}.png", i, 32, 16)
    paint(project.raw / "train" / "odd.png", 7, 33, 16)
    with pytest.raises(UserError, match=r"train/odd.png has 33×16 pixels, but a pair"):
        split(data(), project)


def test_images_of_test_leave_train(project: Project, data: Build, raw: Callable[..., None], paint: Paint) -> None:
    raw(trainA=6, trainB=6, testA=2, testB=2, valA=1, valB=1)
    twin = decode(project.raw / "testA" / "001.png", 3, 8).pixels
    # The same pixels in another file format, and the same image in the other domain, which is no duplicate.
    Image.fromarray(twin).save(project.raw / "trainA" / "twin.bmp")
    Image.fromarray(twin).save(project.raw / "trainB" / "other.png")
    shutil.copy(project.raw / "valB" / "000.png", project.raw / "trainB" / "twin.png")
    split(data(), project)
    assert counts(project) == {"A": {"train": 6, "val": 1, "test": 2}, "B": {"train": 7, "val": 1, "test": 2}}
    assert report(project)["duplicates_taken_out_of_train"] == {
        "count": 2,
        "first": {"trainA/twin.bmp": "identical with testA/001.png", "trainB/twin.png": "identical with valB/000.png"},
    }
    left_out = pd.read_csv(project.split / "left_out.csv")
    assert list(left_out["kind"]) == ["duplicate", "duplicate"]


def test_images_of_test_are_not_drawn_into_val(project: Project, data: Build, raw: Callable[..., None]) -> None:
    """Every second image is drawn, so that some copies of test images are among them."""
    raw(trainA=8, trainB=8, testA=8, testB=2)
    for file in sorted((project.raw / "testA").iterdir()):
        shutil.copy(file, project.raw / "trainA" / f"copy{file.name}")
    split(data(val_fraction=0.5), project)
    manifest = pd.read_csv(project.split / "manifest.csv")
    held = set(manifest[(manifest.domain == "A") & (manifest.split == "test")].sha256)
    others = manifest[(manifest.domain == "A") & (manifest.split != "test")]
    assert len(held) == 8
    assert not held & set(others.sha256)
    assert report(project)["duplicates_taken_out_of_train"]["count"] == 8


def test_mixed_formats_sizes_and_modes(project: Project, data: Build, paint: Paint) -> None:
    for i, (mode, ending, size) in enumerate(
        [
            ("RGB", "jpg", 20),
            ("L", "png", 31),
            ("RGBA", "png", 40),
            ("P", "gif", 17),
            ("CMYK", "jpg", 25),
            ("L", "bmp", 9),
        ]
    ):
        paint(project.raw / "trainA" / f"{i}.{ending}", i, size, size + 3, mode)
        paint(project.raw / "trainB" / f"{i}.webp", 50 + i, size, size)
    split(data(), project)
    assert report(project)["A"]["modes"] == {"CMYK": 1, "L": 2, "P": 1, "RGB": 1, "RGBA": 1}
    assert report(project)["A"]["smallest"] == "9x12"
    assert report(project)["A"]["largest"] == "40x43"


@pytest.fixture
def with_bad_ones(project: Project, raw: Callable[..., None]) -> None:
    raw(trainA=8, trainB=8)
    folder = project.raw / "trainA"
    (folder / "empty.png").touch()
    (folder / "page\n.jpg").write_text("<html></html>")
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])


def test_unreadable_images_fail_with_a_complete_list(project: Project, data: Build, with_bad_ones: None) -> None:
    with pytest.raises(UserError) as error:
        split(data(), project)
    lines = str(error.value).splitlines()
    facts = (
        (3, 19, "data.on_bad_image"),
        ("  trainA/cut.png", "cannot be decoded"),
        ("  trainA/empty.png", "empty"),
        ("  trainA/page\\n.jpg", "web page"),
    )
    assert all(holds(line, fact) for line, of_line in zip(lines, facts, strict=False) for fact in of_line), lines
    assert len(lines) == 4
    assert not project.split.exists()
    assert not project.reports.exists()


def test_unreadable_images_are_skipped_and_counted(project: Project, data: Build, with_bad_ones: None) -> None:
    split(data(on_bad_image="skip"), project)
    assert counts(project)["A"] == {"train": 4, "val": 2, "test": 2}
    unreadable = report(project)["unreadable"]
    assert unreadable["count"] == 3
    assert "trainA/page\n.jpg" in unreadable["first"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("folders", "changes", "message"),
    [
        ({"trainA": 1, "trainB": 9}, {}, r"domain A: .*\b0\b.*\b1\b.*\btrain\b.*at least 2"),
        ({"trainA": 9, "trainB": 3}, {}, r"domain B: .*\b1\b.*\b3\b.*\btrain\b.*at least 2"),
        ({"trainA": 9, "trainB": 9}, {"val_fraction": 0}, r"domain A: .*\b0\b.*\b9\b.* val.*data.val_fraction"),
        ({"trainA": 9, "trainB": 9}, {"test_fraction": 0}, r"domain A: .*\b0\b.*\b9\b.* test.*data.test_fraction"),
        ({"trainA": 9, "trainB": 0}, {}, "no known layout|domain B"),
    ],
)
def test_too_few(
    project: Project,
    data: Build,
    raw: Callable[..., None],
    folders: dict[str, int],
    changes: dict[str, object],
    message: str,
) -> None:
    raw(**folders)
    with pytest.raises(UserError, match=message):
        split(data(**changes), project)
    assert not project.split.exists()


def test_four_images_are_enough(project: Project, data: Build, raw: Callable[..., None]) -> None:
    raw(trainA=4, trainB=4)
    split(data(val_fraction=0.01, test_fraction=0.01), project)
    assert counts(project)["A"] == {"train": 2, "val": 1, "test": 1}


def test_a_domain_of_one_repeated_image(project: Project, data: Build, raw: Callable[..., None], paint: Paint) -> None:
    raw(trainB=5)
    for i in range(5):
        paint(project.raw / "trainA" / f"{i}.png", 1)
    with pytest.raises(UserError, match="domain A: all 5 images are identical"):
        split(data(), project)


def test_missing_raw_data(project: Project, data: Build) -> None:
    with pytest.raises(UserError, match="does not exist; create it with 'dvc repro fetch'"):
        split(data(), project)


def test_sixteen_bits_are_kept(project: Project, data: Build) -> None:
    for domain in "AB":
        folder = project.raw / f"train{domain}"
        folder.mkdir(parents=True)
        for i in range(5):
            deep = np.random.default_rng([ord(domain), i]).integers(0, 65536, (16, 16), np.uint16)
            Image.fromarray(deep).save(folder / f"{i}.png")
    split(data(bit_depth=16, channels_A=1, channels_B=1), project)
    dataset = PackedDataset.open(project.split)
    assert dataset.bit_depth == 16
    row = next(dataset.manifest.itertuples())
    deep = np.asarray(Image.open(project.raw / row.file))
    np.testing.assert_array_equal(dataset.images(row.domain, row.split)[row.index][..., 0], deep)
    assert report(project)["A"]["modes"] == {"I;16": 5}


def test_odd_names_survive_the_tables(project: Project, data: Build, raw: Callable[..., None], paint: Paint) -> None:
    raw(trainA=4, trainB=4)
    names = ['quo"te', "new\nline", "return\r", "comma,", " space ", "ünï", "NA", "'=1+1", "\\", "tab\t", "`$(x)`;&"]
    for number, name in enumerate(names):
        paint(project.raw / "trainA" / f"{name}.png", 500 + number)
    split(data(), project)
    assert {f"trainA/{name}" for name in names} <= set(PackedDataset.open(project.split).manifest["id"])


def test_many_channels_from_tiff_files(project: Project, data: Build) -> None:
    random = np.random.default_rng(0)
    images = {}
    for domain, channels in (("A", 5), ("B", 2)):
        folder = project.raw / f"train{domain}"
        folder.mkdir(parents=True)
        for n in range(6):
            pixels = random.integers(0, 256, (16, 16, channels)).astype(np.uint8)
            tifffile.imwrite(folder / f"{n}.tif", pixels, photometric="minisblack", planarconfig="contig")
            images[f"train{domain}/{n}.tif"] = pixels
    split(data(channels_A=5, channels_B=2), project)
    dataset = PackedDataset.open(project.split)
    for row in dataset.manifest.itertuples():
        np.testing.assert_array_equal(dataset.images(row.domain, row.split)[row.index], images[row.file])
    assert report(project)["A"]["modes"] == {"5 channels": 6}
    with pytest.raises(UserError, match=r"6 of 12 images cannot be used(.|\n)*trainA/0\.tif has 5 channels, not 3;"):
        split(data(channels_A=3, channels_B=2), project)


def test_images_keep_their_own_sizes(project: Project, data: Build, paint: Paint) -> None:
    sizes = [(20, 16), (31, 9), (7, 40), (20, 16), (12, 12), (25, 24)]
    for number, (width, height) in enumerate(sizes):
        for domain in "AB":
            paint(project.raw / f"train{domain}" / f"{number}.png", number + 10 * (domain == "B"), width, height)
    split(data(load_size="original", channels_B=1, bit_depth=16), project)
    dataset = PackedDataset.open(project.split)
    seen = 0
    for domain, channels in (("A", 3), ("B", 1)):
        for part in ("train", "val", "test"):
            images = dataset.images(domain, part)
            assert isinstance(images, RaggedImages)
            assert images.shape == (len(dataset.ids(domain, part)), None, None, channels)
            assert images.dtype == np.uint16
            for id_, image in zip(dataset.ids(domain, part), images, strict=True):
                np.testing.assert_array_equal(image, decode(project.raw / f"{id_}.png", channels, 16).pixels)
                assert (image.shape[1], image.shape[0]) == sizes[int(Path(id_).name)]
                seen += 1
    assert seen == 2 * len(sizes)
    assert report(project)["load_size"] == "original"
    assert {file.name for file in project.split.iterdir()} == {
        *("manifest.csv", "pairs.csv", "left_out.csv"),
        *(f"{part}{domain}.npy" for part in ("train", "val", "test") for domain in "AB"),
    }
    # However the threads come along.
    first = sums(project.split)
    split(data(load_size="original", channels_B=1, bit_depth=16), project)
    assert sums(project.split) == first


def test_pairs_of_unequal_sizes_are_refused_where_sizes_are_kept(project: Project, data: Build, paint: Paint) -> None:
    for n in range(6):
        paint(project.raw / "trainA" / f"{n}.png", n, 20 + n, 16)
        paint(project.raw / "trainB" / f"{n}.png", n + 10, 20 + n + (n == 3), 16)
    write_pairs(project, [{"A": f"trainA/{n}.png", "B": f"trainB/{n}.png"} for n in range(6)])
    split(data(load_size=16), project)
    message = "trainA/3: .*23×16.* trainB/3 .*24×16.*data.load_size"
    with pytest.raises(UserError, match=message):
        split(data(load_size="original"), project)
    paint(project.raw / "trainB" / "3.png", 13, 23, 16)
    split(data(load_size="original"), project)
    assert report(project)["pairs"] == {"train": 4, "val": 1, "test": 1}
