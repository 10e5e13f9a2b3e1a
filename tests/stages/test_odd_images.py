"""Odd images and odd names that stages fetch and split accept, and the content of the packed images."""

from __future__ import annotations

import csv
import io
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image
from ruamel.yaml import YAML

from cyclegan import cli

ROOT = Path(__file__).parents[2]
RED, GREEN = (200, 40, 30), (30, 160, 50)


def plain(color: tuple[int, ...] = RED, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> Image.Image:
    """One color, with a dark corner that differs from file to file: no two images are the same."""
    image = Image.new(mode, size, color if len(color) > 1 else color[0])
    plain.count += 1
    image.putpixel((0, 0), tuple((plain.count + i) % 100 for i in range(len(color))) if len(color) > 1 else 1)
    return image


plain.count = 0


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def deep_color() -> bytes:
    values = np.asarray(plain()).astype(np.uint16) * 257
    return bytes(tf.io.encode_png(values).numpy())


def deep_gray() -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, np.full((16, 20), 120 * 257, np.uint16))
    return out.getvalue()


def deep_tiff(photometric: str, **options: Any) -> bytes:
    """A red image, or a white one whose TIFF stores white as 0."""
    out = io.BytesIO()
    values = np.asarray(plain()).astype(np.uint16) * 257 if photometric == "rgb" else np.zeros((16, 20), np.uint16)
    if "planarconfig" in options:
        values = np.moveaxis(values, -1, 0)
    if "extrasamples" in options:
        values = np.concatenate([values, np.zeros((16, 20, 1), np.uint16)], axis=-1)
    tifffile.imwrite(out, values, photometric=photometric, **options)
    return out.getvalue()


def transparent_palette() -> bytes:
    image = Image.new("P", (20, 16), 1)
    image.putpalette([255, 0, 255, *RED, 0, 0, 0])
    image.paste(0, (10, 0, 20, 16))
    return saved(image, transparency=0)


def upright_by_exif() -> bytes:
    """Red above green, stored lying on its side."""
    image = plain(RED, (16, 20))
    image.paste(GREEN, (0, 10, 16, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


@dataclass(frozen=True)
class Odd:
    content: bytes
    colors: tuple[tuple[int, int, int], ...] = (RED,)
    """Colors in the middle of the left and right halves of the image."""
    mode: str = "RGB"
    size: tuple[int, int] = (20, 16)


GRAY = (120, 120, 120)
IMAGES: dict[str, Odd] = {
    "cmyk.jpg": Odd(saved(plain().convert("CMYK"), "JPEG", quality=95), mode="CMYK"),
    "deep color.png": Odd(deep_color()),
    "deep gray.tif": Odd(deep_gray(), (GRAY,), "I;16"),
    "deep color.tif": Odd(deep_tiff("rgb")),
    "deep color in planes.tif": Odd(deep_tiff("rgb", planarconfig="separate")),
    "deep color and an empty channel.tif": Odd(deep_tiff("rgb", extrasamples=("unspecified",))),
    "deep gray where white is 0.tif": Odd(deep_tiff("miniswhite"), ((255, 255, 255),), "I;16"),
    "gray.png": Odd(saved(plain((120,), mode="L")), (GRAY,), "L"),
    "bits.png": Odd(saved(Image.new("1", (20, 16), 1)), ((255, 255, 255),), "1"),
    "palette.png": Odd(saved(plain().convert("P", palette=Image.Palette.ADAPTIVE)), mode="P"),
    "transparent palette.png": Odd(transparent_palette(), (RED, (255, 255, 255)), "P"),
    "half transparent.png": Odd(saved(plain((*RED, 0), mode="RGBA")), ((255, 255, 255),), "RGBA"),
    "gray with alpha.png": Odd(saved(plain((120, 255), mode="LA")), (GRAY,), "LA"),
    "animated.gif": Odd(saved(plain(), "GIF", save_all=True, append_images=[plain(GREEN)]), mode="P"),
    "animated.webp": Odd(
        saved(plain(), "WEBP", save_all=True, append_images=[plain(GREEN)], lossless=True), mode="RGB"
    ),
    "many pages.tif": Odd(saved(plain(), "TIFF", save_all=True, append_images=[plain(GREEN)])),
    "on its side.jpg": Odd(upright_by_exif(), size=(16, 20)),
    "odd size.png": Odd(saved(plain(size=(7, 31))), size=(7, 31)),
    "very wide.png": Odd(saved(plain(size=(301, 2))), size=(301, 2)),
    "really a png.jpg": Odd(saved(plain())),
    "really a jpeg.PNG": Odd(saved(plain(), "JPEG", quality=95)),
    "without an end.bmp": Odd(saved(plain(), "BMP") + b"some more bytes"),
}
NAMES = (
    "two words.png",
    "ünïcödé 猫 🐎.png",
    "e\u0301 decomposed.png",
    "right \u202eto left.png",
    "new\nline.png",
    "carriage\rreturn.png",
    "quote's.png",
    'double "quote".png',
    "; touch touched; #.png",
    "$(touch touched).png",
    "`touch touched`.png",
    "${HOME}.png",
    "-rf.png",
    "--output.png",
    "<script>alert(1).png",
    "&amp;.png",
    "100%25.png",
    "a,b.png",
    "=1+1.png",
    "\\backslash.png",
    "con.png",
    "x" * 200 + ".png",
    "Same.png",
    "same.png",
    "same.PNG",
    "same.bmp",
    "sub/same.png",
    "folder.png/inside.png",
)
for _name in NAMES:
    IMAGES[_name] = Odd(saved(plain(), "BMP" if _name.endswith("bmp") else "PNG"))


@dataclass(frozen=True)
class Packed:
    root: Path
    rows: dict[str, dict[str, str]]
    """By name of the file below folder A."""
    before: dict[str, bytes]

    def pixels(self, name: str) -> np.ndarray:
        row = self.rows[name]
        array: np.ndarray = np.load(self.root / f"data/split/{row['split']}A.npy")
        return array[int(row["index"])]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Two folders of odd images, fetched and split by the command line."""
    root = tmp_path_factory.mktemp("odd") / "it's my; $(touch touched) project"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    yaml = YAML()
    tree = yaml.load(root / "params.yaml")
    tree["data"] |= {"source": "folders", "folder_A": "odd folder; $(touch touched)", "folder_B": "b", "load_size": 16}
    tree["train"]["crop_size"] = 16
    tree["model"]["patch_layers"] = 1
    yaml.dump(tree, root / "params.yaml")
    folder = root / tree["data"]["folder_A"]
    for name, odd in IMAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(odd.content)
    (root / "b").mkdir()
    for number in range(10):
        plain(GREEN).save(root / "b" / f"{number}.png")
    (folder / ".hidden.png").write_bytes(b"")
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"\0")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "circle").mkdir()
    (folder / "circle" / "circle").symlink_to("..")
    (root / "elsewhere.png").write_bytes(saved(plain()))
    (folder / "link.png").symlink_to(root / "elsewhere.png")
    (folder / "read-only.png").write_bytes(saved(plain()))
    (folder / "read-only.png").chmod(0o444)
    here, before = Path.cwd(), contents(folder)
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket.png")
        os.chdir(root)
        for stage in ("fetch", "split"):
            cli.main([stage])
    finally:
        os.chdir(here)
    with (root / "data/split/manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"].removeprefix("trainA/"): row for row in csv.DictReader(file) if row["domain"] == "A"}
    return Packed(root, rows, before)


@pytest.mark.parametrize("name", IMAGES)
def test_an_odd_image_is_packed_with_its_colors(packed: Packed, name: str) -> None:
    odd, row = IMAGES[name], packed.rows[name]
    assert (row["mode"], int(row["width"]), int(row["height"])) == (odd.mode, *odd.size)
    pixels = packed.pixels(name).astype(int)
    left, right = pixels[8, 4], pixels[8, 12]
    for found, expected in zip((left, right), odd.colors * (2 // len(odd.colors)), strict=True):
        if name != "on its side.jpg":
            np.testing.assert_allclose(found, expected, atol=6)
    if name == "on its side.jpg":
        np.testing.assert_allclose(pixels[3, 8], RED, atol=6)
        np.testing.assert_allclose(pixels[13, 8], GREEN, atol=6)


def test_links_and_protected_files_are_images_too(packed: Packed) -> None:
    assert set(packed.rows) == {*IMAGES, "link.png", "read-only.png"}


def test_ids_differ_for_every_image(packed: Packed) -> None:
    assert len({row["id"] for row in packed.rows.values()}) == len(packed.rows)


def test_files_of_the_user_stay_and_no_name_runs_as_a_command(packed: Packed) -> None:
    folder = packed.root / "odd folder; $(touch touched)"
    assert contents(folder) == packed.before
    assert {path.name for path in packed.root.iterdir()} == {
        "b",
        "data",
        "dvc.yaml",
        "elsewhere.png",
        "odd folder; $(touch touched)",
        "params.yaml",
        "reports",
    }
    assert not list(packed.root.rglob("touched"))


def test_other_files_are_counted(packed: Packed) -> None:
    text = (packed.root / "data/raw/source.json").read_text()
    assert '"passed_over": 2' in text  # Thumbs.db and notes.txt
    assert '"unreadable": {}' in text
