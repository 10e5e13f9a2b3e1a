"""Image decoding: formats, modes and bit depths, and files that are no images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclegan.data.images.decode import BadImageError, decode, read, resize, to_channels

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
GRAY = RGB[..., 0]
ALPHA = np.random.default_rng(1).integers(0, 256, (12, 10, 4), np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(image: Image.Image, name: str = "x.png", **options: object) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.png", {}),
        ("x.bmp", {}),
        ("x.tiff", {}),
        ("x.webp", {"lossless": True}),
        ("upper case and space.PNG", {}),
        ("wrong ending.jpg", {"format": "PNG"}),
    ],
)
def test_lossless_formats(save: Callable[..., Path], name: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(decode(save(Image.fromarray(RGB), name, **options), 3, 8).pixels, RGB)


def test_jpeg_and_its_multi_image_form(save: Callable[..., Path]) -> None:
    smooth = np.tile(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], (1, 20, 3))
    image = Image.fromarray(smooth)
    for path in (
        save(image, "x.jpg", quality=95),
        save(image, "y.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(smooth[::-1])], quality=95),
    ):
        assert np.abs(decode(path, 3, 8).pixels.astype(int) - smooth).max() <= 4


def test_gif_first_frame(save: Callable[..., Path]) -> None:
    first, second = Image.new("P", (5, 5), 0), Image.new("P", (5, 5), 1)
    for frame in (first, second):
        frame.putpalette([10, 20, 30, 200, 210, 220])
    path = save(first, "x.gif", save_all=True, append_images=[second], duration=50)
    assert decode(path, 3, 8).pixels.reshape(-1, 3).tolist() == [[10, 20, 30]] * 25


def test_animated_webp_first_frame(save: Callable[..., Path]) -> None:
    first, second = Image.new("RGB", (5, 5), (10, 20, 30)), Image.new("RGB", (5, 5), (200, 210, 220))
    path = save(first, "x.webp", save_all=True, append_images=[second], lossless=True)
    assert decode(path, 3, 8).pixels.reshape(-1, 3).tolist() == [[10, 20, 30]] * 25


def test_gray_is_repeated_and_kept(save: Callable[..., Path]) -> None:
    path = save(Image.fromarray(GRAY))
    np.testing.assert_array_equal(decode(path, 1, 8).pixels, GRAY[..., None])
    np.testing.assert_array_equal(decode(path, 3, 8).pixels, np.stack([GRAY] * 3, -1))
    np.testing.assert_array_equal(decode(path, 4, 8).pixels[..., 3], np.full((12, 10), 255))


def test_color_to_gray_as_pillow_does(save: Callable[..., Path]) -> None:
    image = Image.fromarray(RGB)
    np.testing.assert_array_equal(decode(save(image), 1, 8).pixels[..., 0], np.asarray(image.convert("L")))


def test_transparency_lies_over_white_or_is_kept(save: Callable[..., Path]) -> None:
    path = save(Image.fromarray(ALPHA))
    np.testing.assert_array_equal(decode(path, 4, 8).pixels, ALPHA)
    share = ALPHA[..., 3:] / 255
    expected = np.floor(ALPHA[..., :3] * share + 255 * (1 - share) + 0.5)
    np.testing.assert_array_equal(decode(path, 3, 8).pixels, expected)
    clear = save(Image.new("RGBA", (3, 3), (9, 9, 9, 0)), "clear.png")
    assert decode(clear, 1, 8).pixels.min() == 255


def test_palette_with_transparency(save: Callable[..., Path]) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1, 1, 0])
    path = save(image, transparency=1)
    assert decode(path, 3, 8).pixels.reshape(-1, 3).tolist() == [[255, 0, 0], [255] * 3, [255] * 3, [255, 0, 0]]
    assert decode(path, 4, 8).pixels[0, 1, 3] == 0


def test_one_bit_and_cmyk(save: Callable[..., Path]) -> None:
    bits = save(Image.fromarray(GRAY > 127), "bits.png")
    np.testing.assert_array_equal(decode(bits, 1, 8).pixels[..., 0], np.where(GRAY > 127, 255, 0))
    red = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "cmyk.jpg", quality=100)
    assert np.abs(decode(red, 3, 8).pixels[0, 0].astype(int) - [255, 0, 0]).max() <= 3
    assert read(red, 8).mode == "CMYK"


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turn(save: Callable[..., Path], turn: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 250
    # How a camera stores the upright image under each value of the tag.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(Image.fromarray(np.ascontiguousarray(stored)), "x.png", exif=exif)
    np.testing.assert_array_equal(decode(path, 3, 8).pixels, upright)


def test_sixteen_bit_gray(save: Callable[..., Path]) -> None:
    deep = np.array([[0, 1, 128, 129], [257, 32768, 65534, 65535]], np.uint16)
    for name in ("x.png", "x.tif"):
        path = save(Image.fromarray(deep), name)
        np.testing.assert_array_equal(decode(path, 1, 16).pixels[..., 0], deep)
        np.testing.assert_array_equal(decode(path, 1, 8).pixels[..., 0], [[0, 0, 0, 1], [1, 128, 255, 255]])


def png16(pixels: np.ndarray, color_type: int, more: tuple[bytes, bytes] | None = None) -> bytes:
    """A 16-bit PNG with one more chunk, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + (chunk(*more) if more else b"")
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "gray + alpha"])
def test_sixteen_bit_color_png(tmp_path: Path, color_type: int, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (6, 5, channels), np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(png16(deep, color_type))
    pixels = read(path, 16).pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, deep[..., [0, 0, 0, 1]] if channels == 2 else deep)
    shallow = read(path, 8).pixels
    assert shallow.dtype == np.uint8
    assert np.abs(shallow[..., 0].astype(float) - deep[..., 0] / 257).max() <= 1


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize(("color_type", "channels", "kind"), [(0, 1, "gray"), (2, 3, "color")])
def test_one_transparent_value_of_sixteen_bits_is_refused(
    tmp_path: Path, color_type: int, channels: int, kind: str, bit_depth: int
) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (6, 5, channels), np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(png16(deep, color_type, (b"tRNS", deep[0, 0].astype(">u2").tobytes())))
    with pytest.raises(BadImageError, match=f"^has 16-bit {kind} with one transparent value; save it with an alpha"):
        read(path, bit_depth)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_sixteen_bit_color_is_turned_upright(tmp_path: Path, bit_depth: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(upright, 1).astype(np.uint16) * 257
    (tmp_path / "x.png").write_bytes(png16(stored, 2, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    factor = 257 if bit_depth == 16 else 1
    np.testing.assert_array_equal(read(tmp_path / "x.png", bit_depth).pixels, upright.astype(np.uint16) * factor)


def test_sixteen_bit_color_tiff(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", 3, 16).pixels, deep)


def test_eight_bits_fill_sixteen(save: Callable[..., Path]) -> None:
    assert decode(save(Image.new("L", (2, 2), 255)), 1, 16).pixels.max() == 65535


def test_resize_has_the_wanted_shape_and_keeps_a_flat_color(save: Callable[..., Path]) -> None:
    path = save(Image.new("RGB", (31, 17), (10, 100, 200)))
    for bit_depth, factor in ((8, 1), (16, 257)):
        pixels = resize(decode(path, 3, bit_depth).pixels, (20, 24))
        assert pixels.shape == (20, 24, 3)
        assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[10 * factor, 100 * factor, 200 * factor]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_both_depths_are_resized_alike(channels: int) -> None:
    # Away from 0 and 255: between its two passes Pillow clips 8-bit pixels, and floats it does not.
    pixels = np.random.default_rng(0).integers(80, 176, (40, 30, channels), np.uint8)
    deep = resize(pixels.astype(np.uint16) * 257, (16, 16)) / 257
    # With alpha Pillow rounds the premultiplied colors of 8-bit pixels, too.
    assert np.abs(deep - resize(pixels, (16, 16))).max() <= (4 if channels == 4 else 2)


def test_resize_to_the_same_size_keeps_the_pixels() -> None:
    assert resize(RGB, (12, 10)) is RGB


@given(st.integers(0, 255), st.integers(0, 255))
def test_over_white_stays_between_color_and_white(color: int, alpha: int) -> None:
    pixel = np.array([[[color, color, color, alpha]]], np.uint8)
    assert color <= to_channels(pixel, 1)[0, 0, 0] <= 255


def bands(count: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, np.iinfo(dtype).max, (12, 10, count)).astype(dtype)


def save_bands(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "planarconfig": "contig"} | options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [2, 3, 5, 8, 16])
def test_channels_of_a_tiff_stay_as_they_are(tmp_path: Path, count: int, dtype: type) -> None:
    pixels = bands(count, dtype)
    depth = pixels.dtype.itemsize * 8
    forms = [
        save_bands(tmp_path / "x.tif", pixels),
        save_bands(tmp_path / "deflated.tif", pixels, compression="zlib", byteorder=">"),
        save_bands(tmp_path / "planes.tif", np.moveaxis(pixels, -1, 0), planarconfig="separate"),
        save_bands(tmp_path / "big.tif", pixels, bigtiff=True),
    ]
    for path in forms:
        image = read(path, depth)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.mode == f"{count} channels"
        np.testing.assert_array_equal(decode(path, count, depth).pixels, pixels)
    resized = resize(decode(forms[0], count, depth).pixels, (6, 5))
    assert resized.shape == (6, 5, count)
    # Each channel by itself, as if it were a gray image.
    for channel in range(count):
        alone = resize(np.ascontiguousarray(pixels[..., channel : channel + 1]), (6, 5))
        assert np.abs(resized[..., channel].astype(int) - alone[..., 0]).max() <= 2


def test_color_with_more_channels_keeps_them_all(tmp_path: Path) -> None:
    path = save_bands(tmp_path / "x.tif", bands(6), photometric="rgb")
    np.testing.assert_array_equal(decode(path, 6, 8).pixels, bands(6))


def test_another_number_of_channels_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save_bands(tmp_path / "x.tif", bands(5))
    for wanted in (1, 2, 3, 4, 6):
        with pytest.raises(BadImageError, match=f"has 5 channels, not {wanted}; only 1, 3 and 4 can be converted"):
            decode(path, wanted, 8)
    with pytest.raises(BadImageError, match="has 3 channels, not 5"):
        decode(save(Image.fromarray(RGB)), 5, 8)
    with pytest.raises(BadImageError, match="has 1 channel, not 2"):
        decode(save(Image.fromarray(GRAY)), 2, 8)
    # Written as twelve pages, one for each row.
    tifffile.imwrite(tmp_path / "pages.tif", bands(5), photometric="minisblack")
    with pytest.raises(BadImageError, match=r"has 1 channel, not 5; .*a TIFF needs all channels in its first page"):
        decode(tmp_path / "pages.tif", 5, 8)


def test_channels_that_cannot_be_read_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="4 channels that are not marked as RGBA"):
        decode(save_bands(tmp_path / "four.tif", bands(4)), 4, 8)
    with pytest.raises(BadImageError, match=r"floating-point.* 8 or 16 bits"):
        decode(save_bands(tmp_path / "float.tif", bands(5).astype(np.float32)), 5, 8)


def test_channels_are_turned_upright_too(tmp_path: Path) -> None:
    path = save_bands(tmp_path / "turned.tif", np.rot90(bands(5), 1), extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(decode(path, 5, 8).pixels, bands(5))


def test_gray_with_alpha_and_color_in_a_tiff_are_still_images(save: Callable[..., Path]) -> None:
    np.testing.assert_array_equal(decode(save(Image.fromarray(ALPHA), "x.tif"), 4, 8).pixels, ALPHA)
    gray_alpha = Image.fromarray(ALPHA).convert("LA")
    expected = np.asarray(gray_alpha.convert("RGBA"))
    np.testing.assert_array_equal(decode(save(gray_alpha, "y.tif"), 4, 8).pixels, expected)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).resize((200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A tiny file that claims any size."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    raw = bytearray(buffer.getvalue())
    struct.pack_into(">II", raw, 16, width, height)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>404</title>", ".*web page"),
        (b"just text", "is not a JPEG, PNG, WebP, BMP, GIF or TIFF"),
        (jpeg()[:1500], "cannot be decoded: image file is truncated"),
        (png(20_000, 20_000), ".* 178,956,970"),
        (png(1, 1), "has 1×1 pixels"),
        (png(10_000, 1), "has 10000×1 pixels"),
        (png(100, 100), "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a JPEG, PNG, WebP"),
        (b"P6 2 2 255 " + b"0" * 12, "is not a JPEG, PNG, WebP"),
    ],
    ids=["zero", "html", "text", "truncated", "bomb", "pixel", "line", "lying", "postscript", "ppm"],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=f"^{reason}"):
        decode(path, 3, 8)


def test_a_missing_file_is_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="No such file"):
        decode(tmp_path / "x.png", 3, 8)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.float32([[0.5, 1]] * 2), "floating-point"),
        (np.int32([[-1, 70000]] * 2), "32-bit pixels"),
        (np.int32([[0, 255]] * 2), "32-bit pixels"),
    ],
)
def test_unusual_depths_are_refused_by_name(save: Callable[..., Path], values: np.ndarray, reason: str) -> None:
    path = save(Image.fromarray(values), "x.tif")
    with pytest.raises(BadImageError, match=reason):
        decode(path, 1, 16)


def samples() -> list[bytes]:
    out = [jpeg(), png16(np.zeros((4, 4, 3), np.uint16), 2)]
    for form, image in (
        ("PNG", Image.fromarray(ALPHA)),
        ("GIF", Image.fromarray(GRAY).convert("P")),
        ("BMP", Image.fromarray(RGB)),
        ("TIFF", Image.fromarray(RGB)),
        ("WEBP", Image.fromarray(RGB)),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form)
        out.append(buffer.getvalue())
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, bands(3), photometric="minisblack", planarconfig="contig", compression="zlib")
    out.append(buffer.getvalue())
    return out


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(samples()),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.floats(0.2, 1),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_corrupt_file_gives_an_image_or_a_reason(
    tmp_path: Path, sample: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    raw = bytearray(sample)
    for where, value in changes:
        raw[int(where * len(raw))] = value
    path = tmp_path / "x.png"
    path.write_bytes(bytes(raw[: max(1, int(cut * len(raw)))]))
    try:
        pixels = resize(decode(path, 3, 8).pixels, (8, 8))
    except BadImageError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (either outcome is right)
    else:
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8
