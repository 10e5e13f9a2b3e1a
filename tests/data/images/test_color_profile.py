"""Embedded color profiles: against the arithmetic of their primaries, and in real files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import tifffile
from PIL import Image, ImageCms

from cyclegan import params
from cyclegan.data.images.decode import decode, read
from cyclegan.data.packing.pack import split
from cyclegan.project import Project

PHOTOS = Path(skimage.__file__).parent / "data"
D65, D50 = np.array([0.95047, 1, 1.08883]), np.array([0.9642, 1, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PRIMARIES = {
    "sRGB": [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)],
    "Display P3": [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
    "Adobe RGB": [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)],
}
ADOBE_GAMMA = 563 / 256
COLORS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
COLORS[0] = [
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [255, 255, 255],
    [0, 0, 0],
    [128, 128, 128],
    [200, 90, 60],
    [9, 9, 9],
]


def to_xyz(name: str) -> np.ndarray:
    """Linear RGB → XYZ under D65, by the definition of the primaries."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in PRIMARIES[name]]).T
    return columns * np.linalg.solve(columns, D65)


def adapted() -> np.ndarray:
    """XYZ under D65 → XYZ under D50, as profiles hold it."""
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD


def srgb_decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def expected(name: str, pixels: np.ndarray) -> np.ndarray:
    linear = srgb_decoded(pixels / 255) if name == "Display P3" else (pixels / 255) ** ADOBE_GAMMA
    return srgb_encoded(linear @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(name)).T)


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)


def profile(space: bytes, kind: bytes, connection: bytes, version: int, tags: dict[bytes, bytes]) -> bytes:
    """The bytes of an ICC profile."""
    place, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = b"\0\0\0\0" + struct.pack(">I", version) + kind + space + connection
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*D50) + b"\0" * 48
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole) + 4) + whole


def rgb_profile(name: str) -> bytes:
    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    if name == "Adobe RGB":
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563)
    colorants = (adapted() @ to_xyz(name)).T
    tags = {
        letter + b"XYZ": b"XYZ \0\0\0\0" + fixed(*c) for letter, c in zip((b"r", b"g", b"b"), colorants, strict=True)
    }
    tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    return profile(b"RGB ", b"mntr", b"XYZ ", 0x04200000, {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), **tags})


def gray_profile(gamma: int) -> bytes:
    """Of the gamma `gamma` / 256."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, gamma)
    return profile(b"GRAY", b"mntr", b"XYZ ", 0x02100000, {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"kTRC": curve})


# Lab of the 16 corners of CMYK, as bytes: lightness falls with each ink, and cyan alone has a color.
CORNERS = np.array(
    [
        [
            round(255 * (1 - k) * (1 - 0.3 * c) * (1 - 0.2 * m) * (1 - 0.1 * y)),
            128 - 40 * c * (1 - k),
            128 - 30 * c * (1 - k),
        ]
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
    ]
)


def cmyk_profile() -> bytes:
    """A printer whose colors at the 16 corners are `CORNERS`."""
    linear = bytes(range(256))
    table = b"mft1\0\0\0\0\4\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * linear
    table += CORNERS.astype(np.uint8).tobytes() + 3 * linear
    return profile(b"CMYK", b"prtr", b"Lab ", 0x02100000, {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), b"A2B0": table})


def of_lab(lab: np.ndarray) -> np.ndarray:
    """Lab as bytes → sRGB."""
    lightness, a, b = lab[..., 0] * 100 / 255, lab[..., 1] - 128.0, lab[..., 2] - 128.0
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], axis=-1)
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return srgb_encoded(xyz @ (np.linalg.inv(to_xyz("sRGB")) @ np.linalg.inv(adapted())).T)


def save(path: Path, pixels: np.ndarray, icc: bytes, mode: str | None = None, **options: object) -> Path:
    Image.fromarray(pixels, mode).save(path, icc_profile=icc, **options)
    return path


def assert_near(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1.5) -> None:
    assert np.abs(found.astype(float) - wanted).max() <= tolerance


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
@pytest.mark.parametrize(
    ("file", "options"),
    [("x.png", {}), ("x.webp", {"lossless": True}), ("x.tif", {}), ("y.tif", {"compression": "tiff_lzw"})],
)
def test_pixels_are_those_of_the_primaries(tmp_path: Path, name: str, file: str, options: dict[str, object]) -> None:
    path = save(tmp_path / file, COLORS, rgb_profile(name), **options)
    assert np.abs(expected(name, COLORS) - COLORS).max() > 20
    assert_near(decode(path, 3, 8).pixels, expected(name, COLORS))
    assert read(path, 8).profile_use == "converted"


def test_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 90, 60), np.uint8)
    path = save(tmp_path / "x.jpg", flat, rgb_profile("Adobe RGB"), quality=100)
    assert_near(decode(path, 3, 8).pixels, expected("Adobe RGB", flat), 4)


def test_alpha_and_palette(tmp_path: Path) -> None:
    alpha = np.concatenate([COLORS, COLORS[..., :1]], axis=-1)
    for file in ("x.png", "x.tif"):
        found = decode(save(tmp_path / file, alpha, rgb_profile("Display P3")), 4, 8).pixels
        assert_near(found[..., :3], expected("Display P3", COLORS))
        np.testing.assert_array_equal(found[..., 3], alpha[..., 3])
    palette = Image.fromarray(COLORS).quantize(64)
    palette.save(tmp_path / "p.png", icc_profile=rgb_profile("Display P3"))
    assert_near(decode(tmp_path / "p.png", 3, 8).pixels, expected("Display P3", np.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize("file", ["x.png", "x.tif", "y.jpg"])
def test_gray_stays_gray(tmp_path: Path, file: str) -> None:
    gray = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None], 16, axis=0)
    path = save(tmp_path / file, gray, gray_profile(256))
    wanted = srgb_encoded(gray[..., None] / 255)
    # A linear curve is steepest in the shadows, where JPEG's own error of a level counts most.
    assert_near(decode(path, 1, 8).pixels, wanted, 1.5 if file != "y.jpg" else 14)
    three = decode(path, 3, 8).pixels
    assert (three == three[..., :1]).all()


def test_gray_with_alpha_and_with_a_color_profile(tmp_path: Path) -> None:
    both = np.stack([COLORS[..., 0], COLORS[..., 1]], axis=-1)
    found = decode(save(tmp_path / "la.png", both, gray_profile(256), "LA"), 4, 8).pixels
    assert_near(found[..., 0], srgb_encoded(both[..., 0] / 255))
    np.testing.assert_array_equal(found[..., 3], both[..., 1])
    path = save(tmp_path / "l.png", COLORS[..., 0], rgb_profile("Adobe RGB"))
    assert_near(decode(path, 1, 8).pixels[..., 0], srgb_encoded((COLORS[..., 0] / 255) ** ADOBE_GAMMA))


@pytest.mark.parametrize("file", ["x.tif", "x.jpg"])
def test_cmyk_by_its_own_profile(tmp_path: Path, file: str) -> None:
    inks = np.array([[c, m, y, k] for c in (0, 255) for m in (0, 255) for y in (0, 255) for k in (0, 255)], np.uint8)
    blocks = np.repeat(np.repeat(inks.reshape(4, 4, 4), 16, axis=0), 16, axis=1)
    path = save(tmp_path / file, blocks, cmyk_profile(), "CMYK", **({"quality": 100} if file == "x.jpg" else {}))
    image = read(path, 8)
    assert (image.mode, image.profile_use) == ("CMYK", "converted")
    assert_near(image.pixels[8::16, 8::16], of_lab(CORNERS).reshape(4, 4, 3), 4)


def test_sixteen_bits(tmp_path: Path) -> None:
    deep = COLORS.astype(np.uint16) * 257
    tag = [(34675, 7, len(rgb_profile("Display P3")), rgb_profile("Display P3"), True)]
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extratags=tag)
    np.testing.assert_array_equal(decode(tmp_path / "deep.tif", 3, 16).pixels, deep)
    assert read(tmp_path / "deep.tif", 16).profile_use == ""
    # Read as 8 bits, a file of 16 is what one of 8 is; and one of 8 is converted before it is scaled up.
    path = save(tmp_path / "x.png", COLORS, rgb_profile("Display P3"))
    np.testing.assert_array_equal(decode(tmp_path / "deep.tif", 3, 8).pixels, decode(path, 3, 8).pixels)
    np.testing.assert_array_equal(decode(path, 3, 16).pixels, decode(path, 3, 8).pixels.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "icc",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        Image.open(PHOTOS / "astronaut.png").info["icc_profile"],
        rgb_profile("sRGB"),
    ],
    ids=["littleCMS", "HP", "primaries"],
)
def test_srgb_is_left_as_it_is(tmp_path: Path, icc: bytes) -> None:
    image = read(save(tmp_path / "x.png", COLORS, icc), 8)
    np.testing.assert_array_equal(image.pixels, COLORS)
    assert image.profile_use == ""


@pytest.mark.parametrize(
    ("icc", "mode"),
    [
        (b"no profile at all", "RGB"),
        (rgb_profile("Adobe RGB")[:200], "RGB"),
        (gray_profile(256), "RGB"),
        (cmyk_profile(), "RGB"),
        (rgb_profile("Adobe RGB"), "CMYK"),
        (cmyk_profile(), "L"),
    ],
)
def test_a_profile_that_cannot_be_used_costs_no_image(tmp_path: Path, icc: bytes, mode: str) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "x.tif", icc_profile=icc)
    decoded = read(tmp_path / "x.tif", 8)
    np.testing.assert_array_equal(decoded.pixels, read(tmp_path / "plain.tif", 8).pixels)
    assert decoded.profile_use == "unusable"


def test_real_files() -> None:
    """A photo in Adobe RGB, a scan in "Dot Gain 20%" and a screenshot in a monitor's profile."""
    photo = PHOTOS / "rocket.jpg"
    with Image.open(photo) as image:
        assert_near(decode(photo, 3, 8).pixels, expected("Adobe RGB", np.asarray(image)), 2)
    for name, channels in (("page.png", 1), ("color.png", 3)):
        path = PHOTOS / name
        decoded = read(path, 8)
        with Image.open(path) as image:
            stored = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(decoded.pixels.shape)
        assert decoded.profile_use == "converted"
        assert 2 < np.abs(decoded.pixels.astype(int) - stored).mean() < 60


def test_split_counts_them(
    project: Project, data: Callable[..., params.Data], capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(3)
    profiles = [rgb_profile("Display P3")] * 3 + [b"corrupt"] + [rgb_profile("sRGB")] + [b""] * 5
    for domain in "AB":
        folder = project.raw / f"train{domain}"
        folder.mkdir(parents=True)
        for n, icc in enumerate(profiles):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            save(folder / f"{n}.png", pixels, icc if domain == "A" else b"")
    split(data(), project)
    printed = capsys.readouterr().out
    assert "converted to sRGB by their color profile: 3" in printed
    assert "their color profile cannot be used: 1" in printed
    summary = json.loads((project.reports / "split.json").read_text())
    assert summary["A"]["color_profiles"] == {"converted": 3, "unusable": 1}
    assert summary["B"]["color_profiles"] == {"converted": 0, "unusable": 0}
