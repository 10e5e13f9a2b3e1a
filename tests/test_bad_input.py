"""What a user can get wrong, through the command line: one exact message each, exit code 2, and nothing changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tifffile
from PIL import Image
from ruamel.yaml import YAML

from cyclegan import build_generator, cli
from cyclegan.params import Params, read
from cyclegan.params.train import Train

ROOT = Path(__file__).parents[1]
ENDINGS = ".bmp/.gif/.jfif/.jpe/.jpeg/.jpg/.png/.tif/.tiff/.webp"
ACCEPTED = (
    "trainA and trainB (optionally valA, valB, testA, testB), or A and B, or train (optionally val, test) with "
    "pictures twice as wide as high, A left and B right"
)
SKIP = "mend or remove them, or set data.on_bad_image: skip"
KNOWN = (
    "fluent-emoji, folders, ae_photos, apple2orange, cezanne2photo, facades, horse2zebra, iphone2dslr_flower, maps, "
    "monet2photo, summer2winter_yosemite, ukiyoe2photo, vangogh2photo, edges2handbags, edges2shoes, night2day"
)
SMALL = {
    "data": {"source": "folders", "folder_A": "a", "folder_B": "b", "load_size": 16},
    "model": {"generator": "resnet", "base_filters": 4, "blocks": 1, "patch_layers": 1, "discriminator_filters": 4},
    "train": {"epochs": 1, "steps_per_epoch": 2, "crop_size": 16, "log_every": 2, "pool_size": 2},
}
SPACE = read(ROOT / "params.yaml")["search"]["space"]


# The project that the cases spoil.


def picture(seed: int, width: int = 20, height: int = 16, form: str = "PNG", mode: str = "RGB") -> bytes:
    """A small picture of random blocks, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).convert(mode).save(out, form)
    return out.getvalue()


def fill(folder: Path, count: int, first: int = 0, **options: Any) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(first + number, **options))


def configure(root: Path, **sections: dict[str, Any]) -> None:
    yaml, file = YAML(), root / "params.yaml"
    tree = yaml.load(file)
    for section, values in sections.items():
        tree[section].update(values)
    yaml.dump(tree, file)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two folders of twelve pictures each, and the same pictures in data/raw."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "presets", root / "presets")
    configure(root, **SMALL)
    for number, (mine, raw) in enumerate((("a", "trainA"), ("b", "trainB"))):
        fill(root / mine, 12, 100 * number)
        shutil.copytree(root / mine, root / "data" / "raw" / raw)
    (root / "data" / "features").symlink_to(ROOT / "data" / "features")
    # What later stages need, beside the project, for the cases that take it.
    split_project = root.with_name("split")
    shutil.copytree(root, split_project, symlinks=True)
    with contextlib.chdir(split_project):
        cli.main(["split"])
    build_generator(3, base_filters=4, blocks=1).save(root.with_name("generator.keras"))
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(template, root, symlinks=True)
    (tmp_path / "template").symlink_to(template.parent)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Every file, folder and link with its content."""
    found = {}
    for path in root.rglob("*"):
        kind = path.lstat().st_mode
        name = path.relative_to(root).as_posix()
        # The store is made when it is first needed, and holds no output.
        if name.split("/")[0] in ("mlruns", "checkpoints"):
            continue
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[name] = f"{kind} {hashlib.sha256(content).hexdigest()}"
    return found


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, standard output and error."""
    capfd.readouterr()
    code: Any = 0
    try:
        cli.main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capfd.readouterr()
    return code, out, err


# What goes wrong. Each takes the project's folder and spoils something.

Spoil = Callable[[Path], object]


def nothing(_root: Path) -> None:
    """The command itself is wrong."""


def params(**sections: dict[str, Any]) -> Spoil:
    return lambda root: configure(root, **sections)


def text(old: str, new: str) -> Spoil:
    """Replace text of params.yaml."""

    def spoil(root: Path) -> None:
        file = root / "params.yaml"
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new, 1))

    return spoil


def whole(content: str | bytes) -> Spoil:
    """Another params.yaml."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda root: (root / "params.yaml").write_bytes(raw)


def put(name: str, content: str | bytes) -> Spoil:
    raw = content.encode() if isinstance(content, str) else content

    def spoil(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)

    return spoil


def remove(*names: str) -> Spoil:
    def spoil(root: Path) -> None:
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return spoil


def link(name: str, target: str) -> Spoil:
    return lambda root: (root / name).symlink_to(target)


def both(*spoils: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        for one in spoils:
            one(root)

    return spoil


def emptied(name: str, keep: int = 0) -> Spoil:
    def spoil(root: Path) -> None:
        for path in sorted((root / name).iterdir())[keep:]:
            path.unlink()

    return spoil


def alike(root: Path) -> None:
    for path in (root / "data/raw/trainA").iterdir():
        path.write_bytes(picture(1))


def sockets_only(root: Path) -> None:
    emptied("a")(root)
    # The path of a socket must be short.
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("a/x.png")


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            # Without the time of day, so that its sum is always the same.
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def locked() -> bytes:
    raw = bytearray(zipped({"trainA/1.png": b"secret"}))
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


def tarred(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return out.getvalue()


def archive(content: bytes, name: str = "set.zip", **more: Any) -> Spoil:
    """An archive as the source of the data, with its right sum."""
    found = hashlib.sha256(content).hexdigest()
    source = {"source": f"file:{name}", "sha256": found, "folder_A": DEFAULT_A, "folder_B": DEFAULT_B}
    return both(put(name, content), params(data=source | more))


DEFAULT_A, DEFAULT_B = "data/fluent-emoji/trainA", "data/fluent-emoji/trainB"
GOOD_SET = {f"train{d}/{n}.png": picture(n) for d in "AB" for n in range(2)}


def source(value: str, **more: Any) -> Spoil:
    return params(data={"source": value, "folder_A": DEFAULT_A, "folder_B": DEFAULT_B} | more)


def bomb() -> bytes:
    """A valid PNG of 20,000×20,000 pixels in 48 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2501 * 20_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def bad_picture(content: bytes, name: str = "x.png") -> Spoil:
    return put(f"data/raw/trainA/{name}", content)


def zip_bomb() -> bytes:
    """80 MiB of zeros in 80 kB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("trainA/1.png"), bytes(80 << 20), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def same_test(root: Path) -> None:
    """Every training picture of A also stands in the test."""
    shutil.copytree(root / "data/raw/trainA", root / "data/raw/testA")


def spoil_tree(root: Path, change: Callable[[Any], object]) -> None:
    yaml, file = YAML(), root / "params.yaml"
    tree = yaml.load(file)
    change(tree)
    yaml.dump(tree, file)


def split_done(root: Path) -> None:
    shutil.copytree(root.with_name("template") / "split/data/split", root / "data/split")


def trained(root: Path) -> None:
    (root / "models").mkdir()
    for direction in ("AtoB", "BtoA"):
        shutil.copy(root.with_name("template") / "generator.keras", root / f"models/generator_{direction}.keras")
    put("reports/train/run.json", json.dumps(RUN))(root)
    for name in ("losses", "validation"):
        put(f"reports/train/{name}.csv", "step,epoch\n2,1\n")(root)


def grey_generator(root: Path) -> None:
    build_generator(1, base_filters=4, blocks=1).save(root / "models/generator_AtoB.keras")


def greedy_generator(root: Path) -> None:
    """Its pictures are petabytes: refused by the allocator of any machine."""
    image = keras.Input((None, None, 3))
    greedy = keras.Model(image, keras.layers.ZeroPadding2D(2**24)(image))
    greedy.save(root / "models/generator_AtoB.keras")


def cut(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])

    return spoil


NO_IDENTITY = {"adversarial": 1, "identity": 0, "forward_cycle": 1, "backward_cycle": 1}
FIGURES = json.dumps({"protocol": {}} | {d: {"cycle_l1": 0.5, "identity": {}} for d in ("AtoB", "BtoA")})
RUN = {
    **dict.fromkeys(("experiment", "dataset"), "a2b"),
    **{"run_id": "0" * 32, "run_key": "0" * 16, "data_md5": "0" * 32},
    **{"steps": 2, "epochs": 1, "seconds": 1.0, "device": "CPU", "adversarial_loss": "least_squares"},
    "kept": {"select": "last", "step": 2, "epoch": 1.0, "value": None},
}


@dataclass(frozen=True)
class Case:
    command: str
    """Its words, divided by single spaces."""
    spoil: Spoil
    message: str
    """Exact, with {root} for the project's folder."""


CASES = {
    "folder missing": Case(
        "fetch",
        remove("a"),
        "data.folder_A = {root}/a: does not exist",
    ),
    "folder is a file": Case(
        "fetch",
        both(remove("b"), put("b", "text")),
        "data.folder_B = {root}/b: is not a folder",
    ),
    "folder empty": Case(
        "fetch",
        emptied("b"),
        f"data.folder_B = {{root}}/b: holds no picture ({ENDINGS})",
    ),
    "folder of other files": Case(
        "fetch",
        both(emptied("a"), put("a/notes.txt", "text"), put("a/more/clip.mp4", "film")),
        f"data.folder_A = {{root}}/a: holds no picture ({ENDINGS}); it holds 2 other files",
    ),
    "folder of a socket": Case(
        "fetch",
        sockets_only,
        f"data.folder_A = {{root}}/a: holds no picture ({ENDINGS})",
    ),
    "folder with a name too long": Case(
        "fetch",
        params(data={"folder_A": "x" * 300}),
        f"File name too long: {{root}}/{'x' * 300}",
    ),
    "folder with a NUL in its name": Case(
        "fetch",
        text("folder_A: a", 'folder_A: "a\\0b"'),
        "data.folder_A = {root}/a\\x00b: does not exist",
    ),
    "folder with a line break in its name": Case(
        "fetch",
        params(data={"folder_A": "no\nsuch"}),
        "data.folder_A = {root}/no\\nsuch: does not exist",
    ),
    "A and B the same folder": Case(
        "fetch",
        params(data={"folder_B": "a"}),
        "data.folder_A and data.folder_B are the same folder {root}/a; a domain needs its own",
    ),
    "A and B the same folder by a link": Case(
        "fetch",
        both(link("c", "a"), params(data={"folder_B": "c"})),
        "data.folder_A and data.folder_B are the same folder {root}/a; a domain needs its own",
    ),
    "B inside A": Case(
        "fetch",
        both(put("a/sub/1.png", picture(50)), params(data={"folder_B": "a/sub"})),
        "data.folder_A = {root}/a and data.folder_B = {root}/a/sub: one lies inside the other; separate them",
    ),
    "raw data as the folder": Case(
        "fetch",
        params(data={"folder_A": "data/raw/trainA"}),
        "data.folder_A = {root}/data/raw/trainA: overlaps with {root}/data/raw, which stage fetch "
        "replaces; keep your pictures elsewhere",
    ),
    "project as the folder": Case(
        "fetch",
        params(data={"folder_A": ".", "folder_B": "../other", "name": "mine"}),
        "data.folder_B = {root}/../other: does not exist",
    ),
    "dangling link": Case(
        "fetch",
        link("a/gone.png", "nowhere.png"),
        f"1 pictures cannot be opened; {SKIP}\n  folder_A/gone.png: No such file or directory",
    ),
    "link to itself": Case(
        "fetch",
        link("a/loop.png", "loop.png"),
        f"1 pictures cannot be opened; {SKIP}\n  folder_A/loop.png: Too many levels of symbolic links",
    ),
    "folder link in a circle": Case(
        "fetch",
        both(remove("a"), link("a", "a")),
        "data.folder_A = {root}/a: does not exist",
    ),
    "name that is not UTF-8": Case(
        "fetch",
        lambda root: Path(os.fsdecode(b"a/\xff.png")).write_bytes(picture(1)),
        f"1 pictures cannot be opened; {SKIP}\n  folder_A/\\udcff.png: its name is not valid UTF-8",
    ),
    "source unknown": Case(
        "fetch",
        source("hrse2zebra"),
        "data.source = 'hrse2zebra': unknown source; did you mean horse2zebra? An archive needs file:"
        " or https: in front",
    ),
    "source quite unknown": Case(
        "fetch",
        source("my pictures"),
        f"data.source = 'my pictures': unknown source; known: {KNOWN}. An archive needs file: or https: in front",
    ),
    "source a path without file:": Case(
        "fetch",
        source("../set.zip"),
        f"data.source = '../set.zip': unknown source; known: {KNOWN}. An archive needs file: or https: in front",
    ),
    "source not redistributable": Case(
        "fetch",
        source("cityscapes"),
        "data.source = 'cityscapes': its licence forbids redistribution; get it from "
        "cityscapes-dataset.com and use data.source: folders",
    ),
    "source plain http": Case(
        "fetch",
        source("http://example.org/set.zip", sha256="0" * 64),
        "params.yaml: data.source = 'http://example.org/set.zip': plain http is refused; use https: or file:",
    ),
    "source ftp": Case(
        "fetch",
        source("ftp://example.org/set.zip"),
        f"data.source = 'ftp://example.org/set.zip': unknown source; known: {KNOWN}. An archive needs "
        "file: or https: in front",
    ),
    "source with a password": Case(
        "fetch",
        source("https://me:secret@example.org/set.zip", sha256="0" * 64),
        "https://example.org/set.zip: an address with a user name or password is refused; download "
        "the file and use file:",
    ),
    "source without a host": Case(
        "fetch",
        source("https:///set.zip", sha256="0" * 64),
        "https:///set.zip: names no server; check data.source",
    ),
    "source of another machine": Case(
        "fetch",
        source("file://server/set.zip", sha256="0" * 64),
        "data.source = 'file://server/set.zip': names the machine 'server'; write file:///path or file:path",
    ),
    "source without its sum": Case(
        "fetch",
        source("file:set.zip"),
        "params.yaml: data.sha256 is empty: an archive needs its SHA-256 sum (run sha256sum on the file)",
    ),
    "sum in capitals": Case(
        "fetch",
        source("file:set.zip", sha256="A" * 64),
        f"params.yaml: data.sha256 = '{'A' * 64}': must be 64 hexadecimal digits in lower case, as "
        "sha256sum prints them",
    ),
    "sum of another kind": Case(
        "fetch",
        source("file:set.zip", sha256="0" * 32),
        "params.yaml: data.sha256 = '00000000000000000000000000000000': must be 64 hexadecimal digits"
        " in lower case, as sha256sum prints them",
    ),
    "table of sums broken": Case(
        "fetch",
        both(source("horse2zebra"), put("data/checksums.json", "{")),
        "{root}/data/checksums.json is not valid JSON (Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)); restore it with 'git checkout {root}/data/checksums.json'",
    ),
    "table of sums a list": Case(
        "fetch",
        both(source("horse2zebra"), put("data/checksums.json", "[1]")),
        "{root}/data/checksums.json holds no table of names and sums; restore it with 'git checkout "
        "{root}/data/checksums.json'",
    ),
    "archive missing": Case(
        "fetch",
        source("file:gone.zip", sha256="0" * 64),
        "data.source = 'file:gone.zip': there is no file {root}/gone.zip",
    ),
    "archive a folder": Case(
        "fetch",
        source("file:a", sha256="0" * 64),
        "data.source = 'file:a': there is no file {root}/a",
    ),
    "archive with a NUL in its name": Case(
        "fetch",
        source("file:a%00b.zip", sha256="0" * 64),
        "data.source = 'file:a%00b.zip': there is no file {root}/a\\x00b.zip",
    ),
    "archive of another sum": Case(
        "fetch",
        both(archive(zipped(GOOD_SET)), put("set.zip", "other")),
        "{root}/set.zip: SHA-256 is d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa,"
        " expected 5a82dc69f77c9a3346bf4c20516b9e83c47f4a654ac7f9e5b88721c098fecb71; check "
        "data.source and data.sha256",
    ),
    "archive that is a web page": Case(
        "fetch",
        archive(b"<!DOCTYPE html><title>404</title>"),
        "set.zip is not a zip or tar archive; check data.source",
    ),
    "archive empty file": Case(
        "fetch",
        archive(b""),
        "set.zip is not a zip or tar archive; check data.source",
    ),
    "archive of a kind that is not read": Case(
        "fetch",
        archive(b"Rar!\x1a\x07\x00" + bytes(100), "set.rar"),
        "set.rar is not a zip or tar archive; check data.source",
    ),
    "archive 7z": Case(
        "fetch",
        archive(b"7z\xbc\xaf\x27\x1c" + bytes(100), "set.7z"),
        "set.7z is not a zip or tar archive; check data.source",
    ),
    "archive with a password": Case(
        "fetch",
        archive(locked()),
        "set.zip is locked by a password; unpack it yourself and use data.source: folders",
    ),
    "archive cut short": Case(
        "fetch",
        archive(zipped(GOOD_SET)[:-40]),
        "set.zip is damaged or cut short (File is not a zip file); get it again",
    ),
    "archive empty zip": Case(
        "fetch",
        archive(zipped({})),
        f"no known layout: found no folders; accepted: {ACCEPTED}",
    ),
    "archive of another layout": Case(
        "fetch",
        archive(zipped({"cats/1.png": picture(1), "dogs/1.png": picture(2)})),
        f"no known layout: found folders cats, dogs; accepted: {ACCEPTED}",
    ),
    "archive of one domain": Case(
        "fetch",
        archive(zipped({"trainA/1.png": picture(1)})),
        f"no known layout: found folders trainA; accepted: {ACCEPTED}",
    ),
    "archive with an empty domain": Case(
        "fetch",
        archive(zipped({"trainA/1.png": picture(1), "trainB/notes.txt": b""})),
        f"domain B has no pictures: trainB holds no {ENDINGS} file",
    ),
    "archive of loose pictures": Case(
        "fetch",
        archive(zipped({"1.png": picture(1), "2.png": picture(2)})),
        f"no known layout: found no folders; accepted: {ACCEPTED}",
    ),
    "archive of single pictures in train": Case(
        "fetch",
        archive(zipped({"train/1.png": picture(1)})),
        f"no known layout: train/1.png has 20×16 pixels, so train holds no pairs side by side; accepted: {ACCEPTED}",
    ),
    "archive that leaves its folder": Case(
        "fetch",
        archive(zipped({"../../params.yaml": b"mine"})),
        "set.zip: member '../../params.yaml' leaves the target folder; the archive is refused",
    ),
    "archive with a link": Case(
        "fetch",
        archive(tarred("trainA", tarfile.SYMTYPE, "/etc"), "set.tar.gz"),
        "set.tar.gz: member 'trainA' is a link, device or sparse file; the archive is refused",
    ),
    "archive with a line break in a name": Case(
        "fetch",
        archive(zipped({"/x\ny.png": b""})),
        "set.zip: member '/x\\ny.png' has an absolute path; the archive is refused",
    ),
    "archive that is a bomb": Case(
        "fetch",
        archive(zip_bomb()),
        "set.zip unpacks to more than 67,108,864 bytes, too many for pictures in a file of its size; "
        "refused as a decompression bomb",
    ),
    "no raw data": Case(
        "split",
        remove("data/raw"),
        "{root}/data/raw does not exist; make it with 'dvc repro fetch'",
    ),
    "raw data a file": Case(
        "split",
        both(remove("data/raw"), put("data/raw", "text")),
        "{root}/data/raw is not a folder; make it with 'dvc repro fetch'",
    ),
    "raw data empty": Case(
        "split",
        both(remove("data/raw"), lambda root: (root / "data/raw").mkdir()),
        f"no known layout: found no folders; accepted: {ACCEPTED}",
    ),
    "raw data of one domain": Case(
        "split",
        remove("data/raw/trainB"),
        f"no known layout: found folders trainA; accepted: {ACCEPTED}",
    ),
    "raw data with an empty domain": Case(
        "split",
        emptied("data/raw/trainB"),
        f"domain B has no pictures: trainB holds no {ENDINGS} file",
    ),
    "one picture": Case(
        "split",
        emptied("data/raw/trainA", keep=1),
        "domain A: 0 of its 1 usable pictures are for train, at least 2 are needed; add pictures",
    ),
    "three pictures": Case(
        "split",
        emptied("data/raw/trainB", keep=3),
        "domain B: 1 of its 3 usable pictures are for train, at least 2 are needed; add pictures",
    ),
    "all pictures the same": Case(
        "split",
        alike,
        "domain A: all 12 pictures are identical; give it different pictures",
    ),
    "zero bytes": Case(
        "split",
        bad_picture(b""),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.png is empty",
    ),
    "text with the ending of a picture": Case(
        "split",
        bad_picture("these are my notes"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.png is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture, or its start is damaged",
    ),
    "web page with the ending of a picture": Case(
        "split",
        bad_picture("<html>Not found</html>", "x.jpg"),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.jpg is a web page or other text, not a picture",
    ),
    "JPEG cut short": Case(
        "split",
        bad_picture(picture(1, 200, 200, "JPEG")[:900], "x.jpg"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.jpg cannot be decoded: image file is truncated (31 bytes not processed)",
    ),
    "PNG cut short": Case(
        "split",
        bad_picture(picture(1, 64, 64)[:100]),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.png cannot be decoded: image file is truncated",
    ),
    "one pixel": Case(
        "split",
        bad_picture(picture(1, 1, 1)),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.png has 1×1 pixels, too few to be a picture",
    ),
    "bomb of pixels": Case(
        "split",
        bad_picture(bomb()),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.png has more pixels than the limit of 178,956,970",
    ),
    "floating-point pixels": Case(
        "split",
        bad_picture(tiff(np.zeros((8, 8), np.float32)), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.tif has floating-point pixels; save it with 8 or 16 bits",
    ),
    "32-bit pixels": Case(
        "split",
        bad_picture(tiff(np.full((8, 8), 70_000, np.uint32)), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.tif has 32-bit pixels; save it with 8 or 16 bits",
    ),
    "32-bit pixels that would fit into 8": Case(
        "split",
        bad_picture(tiff(np.full((8, 8), 200, np.int32)), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n  trainA/x.tif has 32-bit pixels; save it with 8 or 16 bits",
    ),
    "signed pixels": Case(
        "split",
        bad_picture(tiff(np.full((8, 8), 200, np.int16)), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.tif has signed pixels; save it with 8 or 16 unsigned bits",
    ),
    "five channels": Case(
        "split",
        bad_picture(tiff(np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig"), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.tif has 5 channels, not 3; only 1, 3 and 4 can be converted (check "
        "data.channels_A and data.channels_B; a TIFF needs all channels in its first page)",
    ),
    "damaged TIFF": Case(
        "split",
        bad_picture(b"II*\0" + bytes(60), "x.tif"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.tif is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture, or its start is damaged",
    ),
    "another format under a known name": Case(
        "split",
        bad_picture(b"\0\0\0\x20ftypavif" + bytes(60), "x.jpg"),
        f"1 of 25 pictures cannot be used; {SKIP}\n"
        "  trainA/x.jpg is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture, or its start is damaged",
    ),
    "picture that is a link to itself": Case(
        "split",
        link("data/raw/trainA/x.png", "x.png"),
        "{root}/data/raw/trainA/x.png: Too many levels of symbolic links; make it anew with 'dvc repro --force fetch'",
    ),
    "several bad pictures": Case(
        "split",
        both(bad_picture(b"", "1.png"), bad_picture(b"", "new\nline.png"), bad_picture("<p>", "$(x).jpg")),
        f"3 of 26 pictures cannot be used; {SKIP}\n"
        "  trainA/$(x).jpg is a web page or other text, not a picture\n"
        "  trainA/1.png is empty\n"
        "  trainA/new\\nline.png is empty",
    ),
    "only bad pictures, skipped": Case(
        "split",
        both(emptied("data/raw/trainA"), bad_picture(b""), params(data={"on_bad_image": "skip"})),
        "domain A: 0 of its 0 usable pictures are for train, at least 2 are needed; add pictures",
    ),
    "test pictures all in train": Case(
        "split",
        same_test,
        "domain A: 0 of its 12 usable pictures are for train (12 more were left out, identical with "
        "pictures of val or test), at least 2 are needed; add pictures",
    ),
    "pictures without a class": Case(
        "split",
        params(data={"labels": "folders"}),
        "data.labels: folders, but 24 of 24 pictures lie in no class's folder, as trainA/CLASS/picture.png does: "
        "trainA/0.png, trainA/1.png, trainA/10.png, trainA/11.png, trainA/2.png, …; move them into one, or set "
        "data.labels: none",
    ),
    "pair table without a column": Case(
        "split",
        put("data/raw/pairs.csv", "left,right\n1,2\n"),
        "{root}/data/raw/pairs.csv has no column A: it needs A and B with paths relative to its folder",
    ),
    "pair table of unknown pictures": Case(
        "split",
        put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/99.png\n"),
        "{root}/data/raw/pairs.csv: column B names 'trainB/99.png', which is no picture of domain B",
    ),
    "pair table that names a picture twice": Case(
        "split",
        put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/1.png\ntrainA/0.png,trainB/2.png\n"),
        "{root}/data/raw/pairs.csv: column A names 'trainA/0.png' twice; a picture has one partner",
    ),
    "pair table with an odd score": Case(
        "split",
        put("data/raw/pairs.csv", "A,B,scored\ntrainA/0.png,trainB/1.png,maybe\n"),
        "{root}/data/raw/pairs.csv: column scored holds 'maybe'; it must be true or false",
    ),
    "pair table empty": Case(
        "split",
        put("data/raw/pairs.csv", ""),
        "{root}/data/raw/pairs.csv is not a readable CSV table: No columns to parse from file",
    ),
    "pair table not text": Case(
        "split",
        put("data/raw/pairs.csv", picture(1)),
        "{root}/data/raw/pairs.csv: is not UTF-8; save it as UTF-8",
    ),
    "pairs of unequal sizes": Case(
        "split",
        both(
            bad_picture(picture(1, 32, 16), "0.png"),
            put("data/raw/pairs.csv", "A,B\ntrainA/0.png,trainB/0.png\n"),
            params(data={"load_size": "original"}),
        ),
        "trainA/0 has 32×16 pixels, but its true partner trainB/0 has 20×16; pairs are compared pixel"
        " by pixel: give them one size, or set data.load_size to one",
    ),
    "pairs not side by side": Case(
        "split",
        both(remove("data/raw"), put("data/raw/train/1.png", picture(1, 20, 20))),
        f"1 of 1 pictures cannot be used; {SKIP}\n"
        "  train/1.png has 20×20 pixels, but a pair side by side is twice as wide as high",
    ),
    "params missing": Case(
        "params",
        remove("params.yaml"),
        "{root}/params.yaml does not exist; 'cyclegan preset quickstart' writes one",
    ),
    "params empty": Case(
        "params",
        whole(""),
        f"params.yaml must hold the sections {', '.join(Params.model_fields)}; it holds no mapping",
    ),
    "params a list": Case(
        "params",
        whole("- data\n- model\n"),
        f"params.yaml must hold the sections {', '.join(Params.model_fields)}; it holds no mapping",
    ),
    "params a sentence": Case(
        "params",
        whole("all of it"),
        f"params.yaml must hold the sections {', '.join(Params.model_fields)}; it holds no mapping",
    ),
    "params not YAML": Case(
        "params",
        whole("data: [1, 2\ntrain: }"),
        'params.yaml is not valid YAML: while parsing a flow sequence in "<unicode string>", line 1, '
        "column 7: data: [1, 2 ^ (line: 1) expected ',' or ']', but got ':' in \"<unicode string>\", "
        "line 2, column 6: train: } ^ (line: 2)",
    ),
    "params with a tab": Case(
        "params",
        whole("data:\n\tsource: folders\n"),
        "params.yaml is not valid YAML: while scanning for the next token found character '\\t' that "
        'cannot start any token in "<unicode string>", line 2, column 1: source: folders ^ (line: 2)',
    ),
    "params not UTF-8": Case(
        "params",
        whole(b"data: \xff\xfe"),
        "{root}/params.yaml is not UTF-8 text",
    ),
    "params with control characters": Case(
        "params",
        whole(b"data: \x01\x02"),
        "params.yaml is not valid YAML: unacceptable character #x0001: special characters are not "
        'allowed in "<unicode string>", position 6',
    ),
    "params with a key twice": Case(
        "params",
        whole("seed: 1\nseed: 2\n"),
        'params.yaml is not valid YAML: while constructing a mapping in "<unicode string>", line 1, column 1: seed: 1 '
        '^ (line: 1) found duplicate key "seed" with value "2" (original value: "1") in "<unicode string>", line 2, '
        "column 1: seed: 2 ^ (line: 2) To suppress this check see: "
        "https://yaml.dev/doc/ruamel.yaml/api/#Duplicate_keys",
    ),
    "params of two documents": Case(
        "params",
        whole("a: 1\n---\nb: 2\n"),
        'params.yaml is not valid YAML: expected a single document in the stream in "<unicode '
        'string>", line 1, column 1: a: 1 ^ (line: 1) but found another document in "<unicode '
        'string>", line 2, column 1: --- ^ (line: 2)',
    ),
    "params that make an object": Case(
        "params",
        whole("data: !!python/object/apply:os.system ['touch x']\n"),
        "params.yaml is not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system' in \"<unicode string>\", line 1, column 7: "
        "data: !!python/object/apply:os.system ... ^ (line: 1)",
    ),
    "params that contain themselves": Case(
        "params",
        whole("data: &x\n  source: *x\n"),
        "params.yaml: data.source = a mapping: must be a valid string",
    ),
    "params a folder": Case(
        "params",
        both(remove("params.yaml"), lambda root: (root / "params.yaml").mkdir()),
        "{root}/params.yaml cannot be read: Is a directory",
    ),
    "section unknown": Case(
        "params",
        lambda root: (root / "params.yaml").open("a").write("\ntrian:\n  epochs: 1\n"),
        "params.yaml: trian: unknown key; did you mean train?",
    ),
    "section a number": Case(
        "params",
        lambda root: spoil_tree(root, lambda tree: tree.update(train=3)),
        "params.yaml: train = 3: must be a mapping of keys",
    ),
    "key not text": Case(
        "params",
        lambda root: spoil_tree(root, lambda tree: tree["train"].update({7: 1})),
        f"params.yaml: train.7: unknown key; known keys: {', '.join(Train.model_fields)}",
    ),
    "key unknown": Case(
        "params",
        lambda root: spoil_tree(root, lambda tree: tree["train"].update(epoch=tree["train"].pop("epochs"))),
        "params.yaml: train.epoch: unknown key; did you mean train.epochs?",
    ),
    "text for a number": Case(
        "params",
        params(train={"epochs": "many"}),
        "params.yaml: train.epochs = 'many': must be a valid integer",
    ),
    "number in quotes": Case(
        "params",
        text("  epochs: 1", "  epochs: '1'"),
        "params.yaml: train.epochs = '1': must be a valid integer",
    ),
    "truth for a number": Case(
        "params",
        params(train={"batch_size": True}),
        "params.yaml: train.batch_size = True: must be a valid integer",
    ),
    "null for a number": Case(
        "params",
        params(train={"learning_rate": None}),
        "params.yaml: train.learning_rate = None: must be a valid number",
    ),
    "number for text": Case(
        "params",
        params(data={"source": 7}),
        "params.yaml: data.source = 7: must be a valid string",
    ),
    "date for text": Case(
        "params",
        text("  source: folders", "  source: 2026-01-31"),
        "params.yaml: data.source = datetime.date(2026, 1, 31): must be a valid string",
    ),
    "list for a number": Case(
        "params",
        params(train={"epochs": [1, 2]}),
        "params.yaml: train.epochs = [1, 2]: must be a valid integer",
    ),
    "mapping for a number": Case(
        "params",
        params(train={"epochs": {"first": 1}}),
        "params.yaml: train.epochs = a mapping: must be a valid integer",
    ),
    "number for a truth": Case(
        "params",
        params(train={"flip": 1}),
        "params.yaml: train.flip = 1: must be a valid boolean",
    ),
    "negative": Case(
        "params",
        params(train={"learning_rate": -1e-4}),
        "params.yaml: train.learning_rate = -0.0001: must be greater than 0",
    ),
    "zero": Case(
        "params",
        params(train={"epochs": 0}),
        "params.yaml: train.epochs = 0: must be at least 1",
    ),
    "infinite": Case(
        "params",
        params(train={"learning_rate": float("inf")}),
        "params.yaml: train.learning_rate = inf: must be a finite number",
    ),
    "not a number": Case(
        "params",
        params(train={"beta_1": float("nan")}),
        "params.yaml: train.beta_1 = nan: must be a finite number",
    ),
    "too large": Case(
        "params",
        params(train={"batch_size": 10**30}),
        "params.yaml: train.batch_size = 1000000000000000000000000000000: must be less than or equal to 1024",
    ),
    "size of three": Case(
        "params",
        params(train={"crop_size": [16, 16, 3]}),
        "params.yaml: train.crop_size = [16, 16, 3]: must be one number of pixels, [height, width], or 'whole'",
    ),
    "size of zero": Case(
        "params",
        params(data={"load_size": 0}),
        "params.yaml: data.load_size = 0: must be between 1 and 8192 pixels a side",
    ),
    "size a word": Case(
        "params",
        params(train={"crop_size": "all"}),
        "params.yaml: train.crop_size = 'all': must be one number of pixels, [height, width], or 'whole'",
    ),
    "size not a multiple": Case(
        "params",
        params(train={"crop_size": 14}),
        "params.yaml: train.crop_size [14, 14]: each side must be a multiple of 4 for "
        "model.generator: resnet; use [12, 12]",
    ),
    "size too small for the discriminator": Case(
        "params",
        both(params(train={"crop_size": 16}), params(model={"patch_layers": 5})),
        "params.yaml: train.crop_size [16, 16] is too small for model.discriminator: patch with 5 "
        "layers; use at least 96 or fewer model.patch_layers",
    ),
    "crop larger than the picture": Case(
        "params",
        params(train={"crop_size": 32}),
        "params.yaml: train.crop_size [32, 32] is larger than data.load_size [16, 16]; lower it",
    ),
    "weight a word": Case(
        "params",
        params(train={"loss_weights": {"adversarial": "much", "identity": 1, "forward_cycle": 1, "backward_cycle": 1}}),
        "params.yaml: train.loss_weights.adversarial = 'much': must be a number, or {AtoB: number, BtoA: number}",
    ),
    "choice misspelt": Case(
        "params",
        params(train={"update_order": "jiont"}),
        "params.yaml: train.update_order = 'jiont': must be 'joint' or 'sequential'",
    ),
    "choice in capitals": Case(
        "params",
        params(model={"generator": "ResNet"}),
        "params.yaml: model.generator = 'ResNet': must be 'resnet', 'unet' or 'unet_full'",
    ),
    "fractions that leave nothing": Case(
        "params",
        params(data={"val_fraction": 0.5, "test_fraction": 0.45}),
        "params.yaml: data.val_fraction + data.test_fraction leave under a tenth for training; lower them",
    ),
    "name with a slash": Case(
        "params",
        params(data={"name": "a/b"}),
        "params.yaml: data.name = 'a/b': must be 1 to 64 letters, digits, '.', '_' or '-', starting "
        "with a letter or digit",
    ),
    "name with a command": Case(
        "params",
        params(data={"name": "$(reboot)"}),
        "params.yaml: data.name = '$(reboot)': must be 1 to 64 letters, digits, '.', '_' or '-', "
        "starting with a letter or digit",
    ),
    "very long value": Case(
        "params",
        params(train={"update_order": "x" * 5000}),
        f"params.yaml: train.update_order = '{'x' * 199}…: must be 'joint' or 'sequential'",
    ),
    "preset unknown": Case(
        "preset tutrial",
        nothing,
        "preset 'tutrial' does not exist; did you mean 'tutorial'?",
    ),
    "preset quite unknown": Case(
        "preset qqq",
        nothing,
        "preset 'qqq' does not exist; there are: digits, horse2zebra, quickstart, tutorial",
    ),
    "preset outside its folder": Case(
        "preset ../params",
        nothing,
        "preset '../params' does not exist; there are: digits, horse2zebra, quickstart, tutorial",
    ),
    "preset of nothing": Case(
        "preset ",
        nothing,
        "preset '' does not exist; there are: digits, horse2zebra, quickstart, tutorial",
    ),
    "preset broken": Case(
        "preset mine",
        put("presets/mine.yaml", "train: ["),
        "mine.yaml is not valid YAML: while parsing a flow node expected the node content, but found "
        "'<stream end>' in \"<unicode string>\", line 1, column 9: train: [ ^ (line: 1)",
    ),
    "outside a project": Case(
        "params",
        remove("dvc.yaml"),
        "no dvc.yaml in {root} or above it: run this command inside the project's folder",
    ),
    "train without data": Case(
        "train",
        nothing,
        "{root}/data/split holds no complete packed data ([Errno 2] No such file or directory: "
        "'{root}/data/split/manifest.csv'); make it with 'dvc repro split'",
    ),
    "train on a broken manifest": Case(
        "train",
        both(split_done, put("data/split/manifest.csv", "id,domain\n")),
        "{root}/data/split holds no complete packed data (manifest.csv has no column height); make it with "
        "'dvc repro split'",
    ),
    "train on missing pixels": Case(
        "train",
        both(split_done, remove("data/split/trainB.npy")),
        "{root}/data/split holds no complete packed data ([Errno 2] No such file or directory: "
        "'{root}/data/split/trainB.npy'); make it with 'dvc repro split'",
    ),
    "train on pixels cut short": Case(
        "train",
        both(split_done, cut("data/split/trainA.npy")),
        "{root}/data/split holds no complete packed data (mmap length is greater than file size); "
        "make it with 'dvc repro split'",
    ),
    "train with other channels than the data": Case(
        "train",
        both(
            split_done,
            params(data={"channels_A": 1}, model={"residual_output": False}, train={"loss_weights": NO_IDENTITY}),
        ),
        "data.channels_A = 1, but the images of {root}/data/split have 3; regenerate them with 'dvc repro split'",
    ),
    "train with a crop larger than the data": Case(
        "train",
        both(split_done, params(data={"load_size": 32}, train={"crop_size": 32})),
        "train.crop_size [32, 32] is larger than 20 of 20 training pictures; lower it, or set "
        "data.load_size to a number: trainA/1 (16×16), trainA/10 (16×16), trainA/11 (16×16), trainA/2"
        " (16×16), trainA/3 (16×16), …",
    ),
    "train with a plateau that is not measured": Case(
        "train",
        both(
            split_done,
            params(
                train={
                    "select": "last",
                    "lr_policy": "plateau",
                    "lr_decay_start": None,
                    "plateau": {"metric": "val_AtoB/pair_psnr", "patience": 1, "factor": 0.5},
                }
            ),
        ),
        "train.plateau.metric = 'val_AtoB/pair_psnr': the validation split yields no such figure; use"
        " one of val_AtoB/cycle_l1, val_AtoB/identity_l1, val_BtoA/cycle_l1, val_BtoA/identity_l1",
    ),
    # One validation picture is no set.
    "train with a choice that is not measured": Case(
        "train",
        both(split_done, params(train={"select": "pair_psnr"})),
        "train.select = 'pair_psnr': the validation split yields no such figure; use last",
    ),
    "train without the feature network": Case(
        "train",
        both(split_done, remove("data/features")),
        "{root}/data/features/efficientnet-lite0.npz does not exist: restore it, it came with the project "
        "('git checkout -- data/features')",
    ),
    "train with a feature network that is not there": Case(
        "train",
        both(split_done, params(evaluate={"features": "my/own.keras"})),
        "evaluate.features: {root}/my/own.keras does not exist; name a file that does, or use "
        "data/features/efficientnet-lite0.npz",
    ),
    "evaluate with a feature network that is none": Case(
        "evaluate",
        both(split_done, trained, put("own.keras", "text"), params(evaluate={"features": "own.keras"})),
        "evaluate.features: {root}/own.keras cannot be used at evaluate.features_size = 128: File not found: "
        "filepath={root}/own.keras. Please ensure the file is an accessible `.keras` zip file.",
    ),
    "features of an unknown network": Case(
        "params",
        params(evaluate={"features": "resnet50"}),
        "params.yaml: evaluate.features = 'resnet50': must be data/features/efficientnet-lite0.npz, or the path "
        "of an .h5 file (Keras' ImageNet weights of Inception-v3) or of a .keras file",
    ),
    **{
        f"{stage} before a search of what a U-Net has not": Case(
            stage,
            params(
                model={"generator": "unet", "blocks": "auto"},
                search={"trials": 2, "space": {**SPACE, "blocks": {"low": 1, "high": 2}}},
            ),
            "search.space.blocks needs model.generator: resnet, not unet; set it to null",
        )
        for stage in ("fetch", "split", "train", "evaluate", "register")
    },
    "fetch before a search whose choices cannot work": Case(
        "fetch",
        params(search={"trials": 2, "space": {**SPACE, "norm": ["instance", "none"]}}, model={"output_norm": True}),
        "search.space allows norm = none, cycle = 0.5, identity = 0.0, which cannot work: model.output_norm needs a "
        "normalization, but model.norm is none; set it to false",
    ),
    "tracking store of files": Case(
        "train",
        both(split_done, params(tracking={"uri": "mlruns"})),
        "tracking.uri = mlruns: not supported, and neither are folders as stores; use sqlite:///FILE,"
        " http(s)://SERVER or postgresql://…, or leave it empty ('mlflow migrate-filestore --source "
        "FOLDER --target sqlite:///FILE' converts a folder)",
    ),
    "tracking store of an unknown kind": Case(
        "train",
        both(split_done, params(tracking={"uri": "mongodb://me:secret@host/x"})),
        "tracking.uri = mongodb://host/x: not supported, and neither are folders as stores; use "
        "sqlite:///FILE, http(s)://SERVER or postgresql://…, or leave it empty ('mlflow "
        "migrate-filestore --source FOLDER --target sqlite:///FILE' converts a folder)",
    ),
    "tracking store no data base": Case(
        "train",
        both(split_done, put("mlruns/mlflow.db", "text")),
        "{root}/mlruns/mlflow.db is no usable MLflow store (file is not a database): restore it or move it away",
    ),
    "evaluate without training": Case(
        "evaluate",
        split_done,
        "{root}/reports/train/run.json does not exist: train first ('dvc repro train')",
    ),
    "evaluate a broken run.json": Case(
        "evaluate",
        both(split_done, put("reports/train/run.json", "{")),
        "{root}/reports/train/run.json is damaged (not JSON: Expecting property name enclosed in "
        "double quotes: line 1 column 2 (char 1)): make it anew with 'dvc repro --force train'",
    ),
    "evaluate an empty run.json": Case(
        "evaluate",
        both(split_done, put("reports/train/run.json", "{}")),
        "{root}/reports/train/run.json is damaged (without adversarial_loss, data_md5, dataset, device, "
        "epochs, experiment, kept, run_id, run_key, seconds, steps): make it anew with 'dvc repro --force train'",
    ),
    "evaluate without generators": Case(
        "evaluate",
        both(split_done, trained, remove("models/generator_AtoB.keras")),
        "{root}/models/generator_AtoB.keras does not exist: train first ('dvc repro'), or name a "
        "generator's .keras file",
    ),
    "evaluate a generator cut short": Case(
        "evaluate",
        both(split_done, trained, cut("models/generator_BtoA.keras")),
        "{root}/models/generator_BtoA.keras is cut short or no .keras file at all; restore or train it again",
    ),
    "evaluate a generator of other channels": Case(
        "evaluate",
        both(split_done, trained, grey_generator),
        "{root}/models/generator_AtoB.keras maps 1 to 3 channels, but the images of {root}/data/split "
        "have 3 and 3; train again ('dvc repro train')",
    ),
    "evaluate without curves": Case(
        "evaluate",
        both(split_done, trained, remove("reports/train/losses.csv")),
        "{root}/reports/train/losses.csv does not exist: train first ('dvc repro train')",
    ),
    "evaluate empty curves": Case(
        "evaluate",
        both(split_done, trained, put("reports/train/losses.csv", "")),
        "{root}/reports/train/losses.csv is damaged (No columns to parse from file): make it anew "
        "with 'dvc repro --force train'",
    ),
    "evaluate samples cut short": Case(
        "evaluate",
        both(
            split_done,
            trained,
            put("reports/train/over_time.png", picture(1)),
            cut("reports/train/over_time.png"),
        ),
        "{root}/reports/train/over_time.png is damaged (image file is truncated): make it anew with 'dvc repro "
        "--force train'",
    ),
    "register without training": Case(
        "register",
        nothing,
        "{root}/reports/train/run.json does not exist: train first ('dvc repro train')",
    ),
    "register without figures": Case(
        "register",
        trained,
        "{root}/reports/evaluate/metrics.json does not exist: evaluate first ('dvc repro evaluate')",
    ),
    "register broken figures": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", "{")),
        "{root}/reports/evaluate/metrics.json is damaged (not JSON: Expecting property name enclosed "
        "in double quotes: line 1 column 2 (char 1)): make it anew with 'dvc repro --force evaluate'",
    ),
    "register empty figures": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", "{}")),
        "{root}/reports/evaluate/metrics.json is damaged (without AtoB, BtoA, protocol): make it anew with "
        "'dvc repro --force evaluate'",
    ),
    "register without generators": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", FIGURES), remove("models/generator_AtoB.keras")),
        "{root}/models/generator_AtoB.keras does not exist: train first ('dvc repro train')",
    ),
    "register without the table of pictures": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", FIGURES)),
        "{root}/reports/evaluate/per_image.csv does not exist: evaluate first ('dvc repro evaluate')",
    ),
    "register an empty table of pictures": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", FIGURES), put("reports/evaluate/per_image.csv", "")),
        "{root}/reports/evaluate/per_image.csv is damaged (No columns to parse from file): make it anew "
        "with 'dvc repro --force evaluate'",
    ),
    "register another table of pictures": Case(
        "register",
        both(trained, put("reports/evaluate/metrics.json", FIGURES), put("reports/evaluate/per_image.csv", "a,b\n")),
        "{root}/reports/evaluate/per_image.csv is damaged (without direction, domain, id): make it "
        "anew with 'dvc repro --force evaluate'",
    ),
    "translate without a model": Case(
        "translate none.keras a/0.png -o out",
        nothing,
        "none.keras does not exist: train first ('dvc repro'), or name a generator's .keras file",
    ),
    "translate with no model file": Case(
        "translate a/0.png a/0.png -o out",
        nothing,
        "a/0.png is not a .keras file: name a generator's .keras file",
    ),
    "translate with a folder as model": Case(
        "translate a a/0.png -o out",
        nothing,
        "a is not a file: name a generator's .keras file",
    ),
    "translate with a broken model": Case(
        "translate x.keras a/0.png -o out",
        put("x.keras", "no model"),
        "x.keras is cut short or no .keras file at all; restore or train it again",
    ),
    "translate with an h5 file": Case(
        "translate x.h5 a/0.png -o out",
        put("x.h5", "no model"),
        "x.h5 is not a .keras file: name a generator's .keras file",
    ),
    "translate without a picture": Case(
        "translate models/generator_AtoB.keras none.png -o out",
        trained,
        "none.png: does not exist; name image files, or folders that hold some",
    ),
    "translate a folder without pictures": Case(
        "translate models/generator_AtoB.keras presets -o out",
        trained,
        f"presets holds no picture ({ENDINGS}); 4 files passed over for having no picture's ending: .yaml",
    ),
    "translate an empty picture": Case(
        "translate models/generator_AtoB.keras x.png -o out",
        both(trained, put("x.png", "")),
        "x.png is empty; leave it out or save it again",
    ),
    "translate five channels": Case(
        "translate models/generator_AtoB.keras x.tif -o out",
        both(
            trained, put("x.tif", tiff(np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig"))
        ),
        "x.tif has 5 channels, not 3; only 1, 3 and 4 can be converted (check data.channels_A and "
        "data.channels_B; a TIFF needs all channels in its first page); leave it out or save it again",
    ),
    "translate two pictures of one name": Case(
        "translate models/generator_AtoB.keras a b -o out",
        trained,
        "a/0.png and b/0.png would both become out/0.png: rename one of them",
    ),
    "translate over a file": Case(
        "translate models/generator_AtoB.keras a/0.png -o out",
        both(trained, put("out/0.png", "mine")),
        "out/0.png exists already: choose another output folder, or replace files with --overwrite",
    ),
    "translate with too little memory": Case(
        "translate models/generator_AtoB.keras a/0.png -o out",
        both(trained, greedy_generator),
        "the memory does not suffice for a/0.png (20×16 pixels): make it smaller, or end what else uses the device",
    ),
    "translate over its input": Case(
        "translate models/generator_AtoB.keras a/0.png -o a --overwrite",
        trained,
        "a/0.png is itself a picture to translate: choose another output folder",
    ),
    "translate into a file": Case(
        "translate models/generator_AtoB.keras a/0.png -o out",
        both(trained, put("out", "mine")),
        "out is not a folder: choose another output folder",
    ),
    "translate into a folder's place": Case(
        "translate models/generator_AtoB.keras a/0.png -o out --overwrite",
        both(trained, lambda root: (root / "out/0.png").mkdir(parents=True)),
        "out/0.png is a folder, where a file must go: choose another output folder",
    ),
    "translate with an alias that does not exist": Case(
        "translate models:/a2b-AtoB@champion a/0.png -o out",
        nothing,
        "models:/a2b-AtoB@champion cannot be loaded from the registry: Registered Model with name=a2b-AtoB not found",
    ),
    "translate with a version that does not exist": Case(
        "translate models:/a2b-AtoB/7 a/0.png -o out",
        nothing,
        "models:/a2b-AtoB/7 cannot be loaded from the registry: Registered Model with name=a2b-AtoB not found",
    ),
    "translate with a malformed address": Case(
        "translate models:/ a/0.png -o out",
        nothing,
        "models:/ cannot be loaded from the registry: Not a proper models:/ URI: models:. Models URIs"
        " must be of the form 'models:/name/suffix' or 'models:/name@alias' where suffix is a "
        "version, stage, or the string 'latest' and where alias is a registered model alias. Only one"
        " of suffix or alias can be defined at a time.",
    ),
    "translate with a bit depth for a registered model": Case(
        "translate models:/a2b-AtoB@champion a/0.png -o out --bit-depth 16",
        nothing,
        "--bit-depth 16: models:/a2b-AtoB@champion knows its own bit depth; leave --bit-depth out",
    ),
    "serve with a bit depth for a registered model": Case(
        "serve models:/a2b-AtoB@champion --bit-depth 8",
        nothing,
        "--bit-depth 8: models:/a2b-AtoB@champion knows its own bit depth; leave --bit-depth out",
    ),
    "translate with an address of another kind": Case(
        "translate runs:/0123/model a/0.png -o out",
        nothing,
        "runs:/0123/model does not exist: train first ('dvc repro'), or name a generator's .keras file",
    ),
    "import of nothing": Case(
        "import-legacy none.h5 -o x.keras",
        nothing,
        "none.h5: no such file; expected a generator that Keras 2 saved whole with model.save()",
    ),
    "import of text": Case(
        "import-legacy x.h5 -o x.keras",
        put("x.h5", "text"),
        "x.h5: is not an HDF5 file (Unable to synchronously open file (file signature not found)); "
        "expected a generator that Keras 2 saved whole with model.save()",
    ),
    "import of a picture": Case(
        "import-legacy a/0.png -o x.keras",
        nothing,
        "a/0.png: is not an HDF5 file (Unable to synchronously open file (file signature not found));"
        " expected a generator that Keras 2 saved whole with model.save()",
    ),
    "import to another kind": Case(
        "import-legacy x.h5 -o x.h5",
        nothing,
        "--output x.h5: must end in .keras",
    ),
    "import over a file": Case(
        "import-legacy x.h5 -o x.keras",
        put("x.keras", "mine"),
        "--output x.keras exists; name a new file",
    ),
    "a file in data's place": Case(
        "fetch",
        both(remove("data"), put("data", "mine")),
        "File exists: {root}/data",
    ),
    "a file in the reports' place": Case(
        "split",
        put("reports", "mine"),
        "File exists: {root}/reports",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_words_and_changes_nothing(
    project: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    case.spoil(project)
    before = snapshot(project)
    code, _, err = run(capfd, *case.command.split(" "))
    # The runs that the cases name are in no store: that is a warning.
    err = "".join(line for line in err.splitlines(keepends=True) if not line.endswith("a run is opened in its place\n"))
    assert err == f"cyclegan: {case.message.replace('{root}', str(project))}\n"
    assert code == 2
    assert snapshot(project) == before


@pytest.mark.parametrize("name", ["folder missing", "archive that is a bomb", "bomb of pixels", "not a number"])
def test_a_process_of_its_own_says_the_same(project: Path, name: str) -> None:
    case = CASES[name]
    case.spoil(project)
    command = [sys.executable, "-m", "cyclegan", *case.command.split(" ")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == f"cyclegan: {case.message.replace('{root}', str(project))}\n"
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("trian",), "argument COMMAND: invalid choice: 'trian'"),
        (("train", "--fast"), "unrecognized arguments: --fast"),
        (("preset",), "the following arguments are required: NAME"),
        (("translate", "x.keras", "a.png"), "the following arguments are required: --output/-o"),
    ],
)
def test_a_command_that_there_is_not_shows_the_usage(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capfd, *arguments)
    assert code == 2
    assert err.startswith("usage: cyclegan")
    assert message in err.splitlines()[-1]


def test_an_earlier_result_survives_a_later_refusal(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Stages run by hand replace what is there only once the new is whole."""
    assert run(capfd, "split")[0] == 0
    before = snapshot(project / "data")
    (project / "data/raw/trainA/new.png").write_bytes(b"")
    spoilt = snapshot(project / "data")
    assert run(capfd, "split")[0] == 2
    assert snapshot(project / "data") == spoilt
    remove("b")(project)
    assert run(capfd, "fetch")[0] == 2
    assert snapshot(project / "data") == spoilt
    assert spoilt.keys() - before.keys() == {"raw/trainA/new.png"}
