"""Every form of TIFF against the array that it was made of: it comes out right, or is refused by name."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cyclegan.data.images.decode import BadImageError, read
from cyclegan.data.images.tiff import tiff_size

HEIGHT, WIDTH = 6, 8


def lzw(data: bytes) -> bytes:
    """Codes of nine bits, and the table cleared before it would need ten: large, but what every LZW decoder reads."""
    codes = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


COMPRESSIONS = {"none": (1, bytes), "deflate": (8, zlib.compress), "LZW": (5, lzw)}


def tiff(
    stored: np.ndarray,
    photometric: int,
    extra: tuple[int, ...] = (),
    compression: str = "none",
    order: str = "<",
    planes: bool = False,
    turn: int = 1,
    more: dict[int, tuple[str, list[int]]] | None = None,
) -> bytes:
    """A TIFF by hand: [H, W, C] as it is to be stored."""
    height, width, channels = stored.shape
    number, compress = COMPRESSIONS[compression]
    ordered = stored.astype(stored.dtype.newbyteorder(order))
    parts = [ordered[..., c].tobytes() for c in range(channels)] if planes else [ordered.tobytes()]
    strips = [compress(part) for part in parts]
    sample_format = {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("L", [width]),
        257: ("L", [height]),
        258: ("H", [stored.dtype.itemsize * 8] * channels),
        259: ("H", [number]),
        262: ("H", [photometric]),
        273: ("L", []),
        274: ("H", [turn]),
        277: ("H", [channels]),
        278: ("L", [height]),
        279: ("L", [len(strip) for strip in strips]),
        284: ("H", [2 if planes else 1]),
        339: ("H", [sample_format] * channels),
        **({338: ("H", list(extra))} if extra else {}),
        **(more or {}),
    }
    offsets = list(itertools.accumulate((len(strip) for strip in strips), initial=8))
    tags[273] = ("L", offsets[:-1])
    body = b"".join(strips) + bytes(offsets[-1] % 2)
    entries, values, free = b"", b"", 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(value) > 4:
            values, value = values + value, struct.pack(f"{order}L", free + len(values))
        entries += struct.pack(f"{order}HHL", tag, {"H": 3, "L": 4}[kind], len(numbers)) + value.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 8 + len(body))
    return start + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


@dataclass(frozen=True)
class Kind:
    photometric: int
    channels: int
    extra: tuple[int, ...] = ()

    def stored(self, bits: int) -> np.ndarray:
        values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, self.channels))
        if self.extra == (1,):
            # Clear pixels too; of the others, none so faint that its color is lost.
            values[..., -1] |= 3 << (bits - 2)
            values[0, 0, -1] = 0
            values[..., :-1] = values[..., :-1] * values[..., -1:] // (2**bits - 1)
        return values.astype(f"u{bits // 8}")

    def meant(self, bits: int) -> np.ndarray:
        """Floats from 0 (black) to 1; what is not seen at all has no color."""
        values = self.stored(bits) / (2**bits - 1)
        colors = 3 if self.photometric == 2 else 1
        color, alpha = values[..., :colors], values[..., colors:]
        if self.extra == (1,):
            color = color / np.maximum(alpha, 1e-9)
        if self.photometric == 0:
            color = 1 - color
        if self.photometric == 5:
            return (1 - values[..., :3]) * (1 - values[..., 3:])
        if self.extra in ((1,), (2,)):
            return np.concatenate([np.repeat(color, 3 // colors, axis=-1), alpha], axis=-1)
        return values if len(self.extra) > 1 or (self.extra and colors == 1) else color


KINDS = {
    "black is 0": Kind(1, 1),
    "white is 0": Kind(0, 1),
    "gray with alpha": Kind(1, 2, (2,)),
    "gray with premultiplied alpha": Kind(1, 2, (1,)),
    "white is 0 with alpha": Kind(0, 2, (2,)),
    "white is 0 with premultiplied alpha": Kind(0, 2, (1,)),
    "two channels": Kind(1, 2, (0,)),
    "three channels": Kind(1, 3, (0, 0)),
    "RGB": Kind(2, 3),
    "RGBA": Kind(2, 4, (2,)),
    "RGB with premultiplied alpha": Kind(2, 4, (1,)),
    "RGB and an unmarked fourth": Kind(2, 4, (0,)),
    "RGB and three more": Kind(2, 6, (2, 0, 0)),
    "CMYK": Kind(5, 4),
}


def forms(kind: Kind, bits: int, compressions: tuple[str, ...]) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """A name, the file and what it must show."""
    for compression, order, planes, turn in itertools.product(compressions, "<>", (False, True), (1, 6)):
        if planes and kind.channels == 1:
            continue
        meant = np.rot90(kind.meant(bits), -1) if turn == 6 else kind.meant(bits)
        content = tiff(kind.stored(bits), kind.photometric, kind.extra, compression, order, planes, turn)
        yield f"{compression} {order} planes={planes} turn={turn}", content, meant


def assert_shows(path: Path, bit_depth: int, meant: np.ndarray, within: float) -> None:
    pixels = read(path, bit_depth).pixels
    assert pixels.dtype.itemsize * 8 == bit_depth
    assert pixels.shape == meant.shape
    shown = pixels / (2**bit_depth - 1)
    if meant.shape[-1] == 4:
        shown, meant = (np.where(image[..., 3:] > 0, image, 0) for image in (shown, meant))
    np.testing.assert_allclose(shown, meant, rtol=0, atol=within)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_has_the_stored_pixels(tmp_path: Path, name: str, bits: int) -> None:
    kind, path = KINDS[name], tmp_path / "x.tif"
    for form, content, meant in forms(kind, bits, ("none", "deflate")):
        path.write_bytes(content)
        for depth in (8, 16):
            exact = 0.6 / (2 ** min(bits, depth) - 1)
            # What was multiplied by alpha has lost some bits, and Pillow's CMYK rounds twice.
            within = 3 / 255 if name == "CMYK" else 3 * exact if kind.extra == (1,) else exact
            if (name, bits) == ("CMYK", 16) and form.startswith("none") and "planes=True" in form:
                with pytest.raises(BadImageError, match=r"16-bit.* RGB.* planes.*RGB"):
                    read(path, depth)
            else:
                assert_shows(path, depth, meant, within)
        assert tiff_size(path) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", KINDS)
def test_a_compression_of_pillows_is_read_right_or_refused(tmp_path: Path, name: str, bits: int) -> None:
    kind, path = KINDS[name], tmp_path / "x.tif"
    common = {"black is 0", "RGB", "CMYK"} | ({"white is 0"} if bits == 8 else set())
    also_with_alpha = {"RGBA", "RGB with premultiplied alpha", "RGB and an unmarked fourth"}
    also_with_alpha |= {"gray with alpha"} if bits == 8 else set()
    for form, content, meant in forms(kind, bits, ("LZW",)):
        path.write_bytes(content)
        for depth in (8, 16):
            must = name in common or (name in also_with_alpha and "planes=False" in form)
            if bits == 16 and depth == 16:
                must = name == "black is 0"
            try:
                # Where Pillow cuts 16-bit color to 8 bits, it does not round.
                assert_shows(path, depth, meant, 3 / 255 if kind.channels > 1 else 0.6 / (2 ** min(bits, depth) - 1))
            except BadImageError as error:
                assert not must, form
                assert str(error).startswith("is an unsupported kind of TIFF (")  # noqa: PT017


@pytest.mark.parametrize("values", ["fit 8 bits", "fit 16 bits", "fit nothing"])
@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("i1", "signed.* 8 or 16 unsigned bits"),
        ("i2", "signed.* 8 or 16 unsigned bits"),
        ("i4", "32-bit.* 8 or 16 bits"),
        ("u4", "32-bit.* 8 or 16 bits"),
        ("f4", "floating-point.* 8 or 16 bits"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_numbers_without_a_white_are_refused_whatever_they_are(
    tmp_path: Path, channels: int, dtype: str, values: str, reason: str
) -> None:
    top = {"fit 8 bits": 127, "fit 16 bits": 32767, "fit nothing": 70000}[values]
    stored = np.linspace(-1 if values == "fit nothing" else 0, top, HEIGHT * WIDTH * channels)
    stored = stored.reshape(HEIGHT, WIDTH, channels).astype(np.int64).astype(dtype)
    path = tmp_path / "x.tif"
    for compression, order in itertools.product(COMPRESSIONS, "<>"):
        path.write_bytes(tiff(stored, 2 if channels == 3 else 1, (0,) * (channels - 1), compression, order))
        for depth in (8, 16):
            with pytest.raises(BadImageError, match=f"{reason}$"):
                read(path, depth)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_twelve_bits_are_refused(tmp_path: Path, photometric: int, order: str) -> None:
    path = tmp_path / "x.tif"
    # 8 pixels of 12 bits in a row: all of them 4095.
    white = np.full((HEIGHT, 12, 1), 255, np.uint8)
    width = {256: ("L", [8]), 258: ("H", [12])}
    path.write_bytes(tiff(white, photometric, order=order, more=width))
    for depth in (8, 16):
        with pytest.raises(BadImageError, match=r"12-bit.* 8 or 16 bits$"):
            read(path, depth)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits_of_gray(tmp_path: Path, bits: int, photometric: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH), np.uint8)
    unpacked = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(HEIGHT, -1)
    packed = np.packbits(unpacked, axis=-1)[..., None]
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(packed, photometric, more={256: ("L", [WIDTH]), 258: ("H", [bits])}))
    meant = values / (2**bits - 1)
    assert_shows(path, 8, (meant if photometric == 1 else 1 - meant)[..., None], 0.6 / 255)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_palette_is_turned_upright(tmp_path: Path, turn: int) -> None:
    """Pillow's own reader, whose short cut for uncompressed pixels mistakes the sides of a turned image."""
    stored = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
    table = np.random.default_rng(1).integers(0, 256, (3, 256))
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(stored, 3, turn=turn, more={320: ("H", (table * 257).ravel().tolist())}))
    colors = table[:, stored[..., 0]].transpose(1, 2, 0)
    # Where the standard puts the stored first row and first column.
    meant = {
        1: colors,
        2: colors[:, ::-1],
        3: colors[::-1, ::-1],
        4: colors[::-1],
        5: colors.swapaxes(0, 1),
        6: np.rot90(colors, -1),
        7: np.rot90(colors, 2).swapaxes(0, 1),
        8: np.rot90(colors, 1),
    }[turn]
    assert_shows(path, 8, meant / 255, 0)
    path.write_bytes(tiff(colors.astype(np.uint16) * 257, 2, turn=turn))
    assert_shows(path, 16, meant / 255, 0)


def test_a_fourth_sample_without_a_word_is_alpha(tmp_path: Path) -> None:
    stored = KINDS["RGBA"].stored(16)
    (tmp_path / "x.tif").write_bytes(tiff(stored, 2))
    np.testing.assert_array_equal(read(tmp_path / "x.tif", 16).pixels, stored)
    # As Corel Draw marks it.
    (tmp_path / "x.tif").write_bytes(tiff(stored, 2, (999,)))
    np.testing.assert_array_equal(read(tmp_path / "x.tif", 16).pixels, stored)


def test_tiles_strips_and_big_files(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), np.uint16)
    path = tmp_path / "x.tif"
    for options in ({"tile": (16, 16)}, {"rowsperstrip": 7}, {"bigtiff": True}, {"tile": (32, 16), "predictor": True}):
        for compression in (None, "zlib") if "predictor" not in options else ("zlib",):
            tifffile.imwrite(path, stored, photometric="rgb", compression=compression, **options)
            np.testing.assert_array_equal(read(path, 16).pixels, stored)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_cut_short_is_refused(
    tmp_path: Path, dtype: type, planarconfig: str, share: float, compression: str | None
) -> None:
    path = tmp_path / "x.tif"
    stored = np.random.default_rng(0).integers(1, 255, (64, 40, 3)).astype(dtype)
    values = stored if planarconfig == "contig" else np.moveaxis(stored, -1, 0)
    for layout in ({"rowsperstrip": 8}, {"tile": (16, 16)}):
        tifffile.imwrite(path, values, photometric="rgb", planarconfig=planarconfig, compression=compression, **layout)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        for depth in (8, 16):
            with pytest.raises(BadImageError):
                read(path, depth)


def test_pixels_that_were_left_out_are_missed(tmp_path: Path) -> None:
    content = tiff(KINDS["RGB"].stored(8), 2, planes=True, more={279: ("L", [48, 0, 48])})
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(BadImageError, match="some of its pixels are missing"):
        read(tmp_path / "x.tif", 8)


@pytest.mark.parametrize(
    ("photometric", "channels"), [(8, 3), (4, 1), (32803, 1)], ids=["CIELAB", "mask", "sensor of a camera"]
)
def test_unsupported_kinds_are_refused_with_the_reason(tmp_path: Path, photometric: int, channels: int) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(np.zeros((HEIGHT, WIDTH, channels), np.uint16), photometric))
    with pytest.raises(BadImageError, match=r"TIFF.* PNG$"):
        read(path, 8)


def test_several_channels_of_few_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    stored = np.zeros((HEIGHT, 4, 5), np.uint8)
    path.write_bytes(tiff(stored, 1, (0,) * 4, more={256: ("L", [WIDTH]), 258: ("H", [4] * 5)}))
    with pytest.raises(BadImageError, match=r"5 channels of 4 bits.* 8 or 16 bits$"):
        read(path, 8)


def test_a_start_that_is_wrong_is_no_tiff(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(path)
    path.write_bytes(b"II\0*" + path.read_bytes()[4:])
    with pytest.raises(BadImageError, match=r"or its header is corrupt$"):
        read(path, 8)
