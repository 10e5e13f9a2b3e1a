"""Command init refuses what cannot be trained on, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from refusals import ENDINGS, FIVE_CHANNELS, Facts, Spoil, all_of, cut, empty, link, make_folder, nothing, put, run


def same_images(root: Path) -> None:
    for file in (root / "b").iterdir():
        file.write_bytes((root / "b" / "0.png").read_bytes())


REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    "no --yes": ("init a b", nothing, ["params.yaml", "stdin is not a terminal", "--yes"]),
    "no folder": ("init a c --yes", nothing, ["data.folder_B", "c", "does not exist"]),
    "a file as folder": ("init a params.yaml --yes", nothing, ["data.folder_B", "params.yaml", "is not a folder"]),
    "one folder": ("init a --yes", nothing, ["a: is a folder", "two folders", "archive"]),
    "one path of nothing": ("init x.zip --yes", nothing, ["x.zip: does not exist", "two folders", "archive"]),
    "three folders": ("init a b a --yes", nothing, [3, "too many", "two folders"]),
    "no archive": ("init params.yaml --yes", nothing, ["params.yaml", "not a zip or tar archive"]),
    "same folder": ("init a a --yes", nothing, ["the same folder", "{root}/a"]),
    "same folder by a link": ("init a c --yes", link("c", "a"), ["the same folder", "{root}/a"]),
    "one in the other": ("init a a/c --yes", make_folder("a/c"), ["one lies inside the other", "{root}/a/c"]),
    "empty folder": ("init a c --yes", make_folder("c"), ["{root}/c", "holds no image", ENDINGS]),
    "no images": ("init a c --yes", put("c/x.txt", "x"), ["{root}/c", "holds no image", "1 other files"]),
    "text with an image's ending": (
        "init a c --yes",
        put("c/x.png", "x"),
        ["domain B", "0 different images", "1 are unreadable", 4, 40, "x.png: is not a JPEG"],
    ),
    "broken images": (
        "init a b --yes",
        all_of(empty("b", keep=4), cut("b/0.png")),
        ["domain B", "3 different images", "1 are unreadable", 4, "0.png: cannot be decoded"],
    ),
    "too few images": ("init a b --yes", empty("b", keep=3), ["domain B", "3 different images", 4, 40]),
    "one image twelve times": (
        "init a b --yes",
        same_images,
        ["domain B", "1 different images", "11 are duplicates", 4],
    ),
    "channels": (
        "init a b --yes",
        put("b/x.tif", FIVE_CHANNELS),
        ["domain B", "12 images of 3 channels", "1 images of 5 channels", "separate"],
    ),
    "no minutes": ("init a b --yes --minutes 0", nothing, ["--minutes 0", "above 0"]),
    "too few minutes": ("init a b --yes --minutes 0.5", nothing, ["--minutes 0.5", "100 training steps", "at least"]),
    "size": ("init a b --yes --size 50", nothing, ["--size 50", "multiple of 16", "use 48"]),
    "a name that is none": ("init a b --yes --epochs 1 --name a/b", nothing, ["data.name", "'a/b'", "letters"]),
    "a variable": ("init a $HOME --yes", make_folder("$HOME"), ["data.folder_B", "variables"]),
}


@pytest.mark.usefixtures("few_timed_steps")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "too few minutes" else ()) for name in REFUSED]
)
def test_init_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])


def test_minutes_and_epochs_exclude_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "init", "a", "b", "--minutes", "1", "--epochs", "1")
    assert (code, "--epochs: not allowed with argument --minutes" in err) == (2, True)
