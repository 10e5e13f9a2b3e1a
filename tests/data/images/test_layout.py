from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan.data.images.layout import find_layout, list_images, shown, walk
from cyclegan.system.errors import UserError


def summary(folder: Path) -> list[tuple[str, str, str, str, str]]:
    return [(i.id, i.file, i.domain, i.split, i.part) for i in list_images(folder)]


def test_domains_with_splits(tmp_path: Path, paint_domains: Callable[..., None]) -> None:
    paint_domains(tmp_path, trainA=1, trainB=1, valB=1, testA=1)
    assert summary(tmp_path) == [
        ("testA/000", "testA/000.png", "A", "test", "whole"),
        ("trainA/000", "trainA/000.png", "A", "train", "whole"),
        ("trainB/000", "trainB/000.png", "B", "train", "whole"),
        ("valB/000", "valB/000.png", "B", "val", "whole"),
    ]


def test_plain_folders(tmp_path: Path, paint_domains: Callable[..., None]) -> None:
    paint_domains(tmp_path, A=1, B=1)
    assert [row[1:4] for row in summary(tmp_path)] == [("A/000.png", "A", "train"), ("B/000.png", "B", "train")]


def test_side_by_side_pairs(tmp_path: Path, paint_domains: Callable[..., None]) -> None:
    paint_domains(tmp_path, train=1, val=1)
    assert summary(tmp_path) == [
        ("train/000", "train/000.png", "A", "train", "left"),
        ("val/000", "val/000.png", "A", "val", "left"),
        ("train/000", "train/000.png", "B", "train", "right"),
        ("val/000", "val/000.png", "B", "val", "right"),
    ]


def test_one_folder_on_top_and_what_macos_adds(tmp_path: Path, paint_domains: Callable[..., None]) -> None:
    paint_domains(tmp_path / "set", trainA=1, trainB=1)
    (tmp_path / "__MACOSX" / "trainA").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    assert find_layout(tmp_path).root == tmp_path / "set"


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        ([], "found no folders"),
        (["horses", "zebras"], "found folders horses, zebras;"),
        (["trainA", "testA"], "found folders testA, trainA;"),
        (["trainA", "train"], "found folders train, trainA;"),
        ([f"c{i}" for i in range(9)], "found folders c0, c1, c2, c3, c4, c5, c6, c7, …;"),
        (["bad\nname", "x"], r"found folders bad\\nname, x;"),
    ],
)
def test_other_layouts_are_refused_with_the_accepted_ones(tmp_path: Path, folders: list[str], found: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"^no known layout: {found}.* use trainA and trainB .*") as error:
        find_layout(tmp_path)
    assert "\n" not in str(error.value)


def test_a_domain_without_images(tmp_path: Path, paint_domains: Callable[..., None]) -> None:
    paint_domains(tmp_path, trainA=1)
    (tmp_path / "trainB").mkdir()
    (tmp_path / "trainB" / "readme.txt").touch()
    with pytest.raises(UserError, match=r"domain B: has no images; add .bmp/.gif/.* files to trainB"):
        list_images(tmp_path)


def test_names_that_differ_only_in_the_extension_keep_it(tmp_path: Path, paint: Callable[..., Path]) -> None:
    paint(tmp_path / "A" / "x.png", 1)
    paint(tmp_path / "A" / "x.jpg", 2)
    paint(tmp_path / "B" / "x.png", 3)
    assert [row[0] for row in summary(tmp_path)] == ["A/x.jpg", "A/x.png", "B/x"]


def test_walk_takes_images_only(tmp_path: Path, paint: Callable[..., Path]) -> None:
    names = ["b.PNG", "sub/a.jpeg", "sub/deep/ü ñ.webp", "new\nline.gif", "quote'\";$(rm -rf)`.bmp", "A.tif", "a.tif"]
    for number, name in enumerate(names):
        paint(tmp_path / name, number)
    (tmp_path / "notes.txt").touch()
    paint(tmp_path / ".hidden.png", 1)
    paint(tmp_path / ".git" / "x.png", 1)
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.png"))
        found = walk(tmp_path)
    assert {path.as_posix() for path in found.images} == set(names)
    assert found.images == sorted(found.images)
    assert found.others == [Path("notes.txt")]
    assert found.broken == []


def test_walk_follows_links_but_enters_no_folder_twice(tmp_path: Path, paint: Callable[..., Path]) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    paint(root / "sub" / "a.png", 1)
    paint(elsewhere / "b.png", 2)
    (root / "sub" / "up").symlink_to(root)
    (root / "self").symlink_to(".")
    (root / "far").symlink_to(elsewhere)
    (root / "far again").symlink_to(elsewhere)
    (root / "file.png").symlink_to(elsewhere / "b.png")
    assert [p.as_posix() for p in walk(root).images] == ["far/b.png", "file.png", "sub/a.png"]


def test_walk_reports_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    broken = {shown(path): reason for path, reason in walk(tmp_path).broken}
    assert broken == {
        "gone.png": "No such file or directory",
        "loop.png": "Too many levels of symbolic links",
        "\\udcff.png": "its name is not valid UTF-8",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_walk_reports_missing_permission(tmp_path: Path, paint: Callable[..., Path]) -> None:
    paint(tmp_path / "x.png", 1).chmod(0)
    assert walk(tmp_path).broken == [(Path("x.png"), "no permission to read it")]


def test_shown_is_one_line() -> None:
    assert shown("a\nb\r\x1b[31mü") == "a\\nb\\r\\x1b[31mü"
