"""Stage fetch refuses folders, sources and archives that it cannot use, and changes nothing."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refusals import ENDINGS, LAYOUTS, Facts, Spoil, all_of, empty, image, link, put, remove, replace_text, set_params

KNOWN = (
    "fluent-emoji, folders, ae_photos, apple2orange, cezanne2photo, facades, horse2zebra, iphone2dslr_flower, maps, "
    "monet2photo, summer2winter_yosemite, ukiyoe2photo, vangogh2photo, edges2handbags, edges2shoes, night2day"
)
DEFAULT_A, DEFAULT_B = "data/fluent-emoji/trainA", "data/fluent-emoji/trainB"
GOOD_SET = {f"train{d}/{n}.png": image(n) for d in "AB" for n in range(2)}


def sockets_only(root: Path) -> None:
    empty("a")(root)
    # The path of a socket must be short.
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("a/x.png")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            # Without the time of day, so that its checksum is always the same.
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


def zip_bomb() -> bytes:
    """80 MiB of zeros in 80 kB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("trainA/1.png"), bytes(80 << 20), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def source(value: str, **more: Any) -> Spoil:
    return set_params(data={"source": value, "folder_A": DEFAULT_A, "folder_B": DEFAULT_B} | more)


def archive(content: bytes, name: str = "set.zip", **more: Any) -> Spoil:
    """An archive as the source of the data, with its right checksum."""
    source = {"source": f"file:{name}", "sha256": sha256(content), "folder_A": DEFAULT_A, "folder_B": DEFAULT_B}
    return all_of(put(name, content), set_params(data=source | more))


REFUSED: dict[str, tuple[Spoil, Facts]] = {
    # Folders.
    "folder missing": (remove("a"), ["data.folder_A", "{root}/a", "does not exist"]),
    "folder is a file": (all_of(remove("b"), put("b", "text")), ["data.folder_B", "{root}/b", "not a folder"]),
    "folder empty": (empty("b"), ["data.folder_B", "{root}/b", ENDINGS]),
    "folder of other files": (
        all_of(empty("a"), put("a/notes.txt", "text"), put("a/more/clip.mp4", "film")),
        ["data.folder_A", "{root}/a", ENDINGS, 2],
    ),
    "folder of a socket": (sockets_only, ["data.folder_A", "{root}/a", ENDINGS]),
    "folder with a name too long": (
        set_params(data={"folder_A": "x" * 300}),
        [f"{{root}}/{'x' * 300}", "File name too long"],
    ),
    "folder with a NUL in its name": (
        replace_text("folder_A: a", 'folder_A: "a\\0b"'),
        ["data.folder_A", "{root}/a\\x00b", "does not exist"],
    ),
    "folder with a line break in its name": (
        set_params(data={"folder_A": "no\nsuch"}),
        ["data.folder_A", "{root}/no\\nsuch", "does not exist"],
    ),
    "A and B the same folder": (
        set_params(data={"folder_B": "a"}),
        ["data.folder_A", "data.folder_B", "{root}/a", "same folder"],
    ),
    "A and B the same folder by a link": (
        all_of(link("c", "a"), set_params(data={"folder_B": "c"})),
        ["data.folder_A", "data.folder_B", "{root}/a", "same folder"],
    ),
    "B inside A": (
        all_of(put("a/sub/1.png", image(50)), set_params(data={"folder_B": "a/sub"})),
        ["data.folder_A", "data.folder_B", "{root}/a/sub", "inside"],
    ),
    "raw data as the folder": (
        set_params(data={"folder_A": "data/raw/trainA"}),
        ["data.folder_A", "{root}/data/raw/trainA", "overlaps", "fetch"],
    ),
    "project as the folder": (
        set_params(data={"folder_A": ".", "folder_B": "../other", "name": "mine"}),
        ["data.folder_B", "{root}/../other", "does not exist"],
    ),
    "dangling link": (
        link("a/gone.png", "nowhere.png"),
        ["folder_A/gone.png", "No such file or directory", "data.on_bad_image"],
    ),
    "link to itself": (
        link("a/loop.png", "loop.png"),
        ["folder_A/loop.png", "Too many levels of symbolic links", "data.on_bad_image"],
    ),
    "folder link in a circle": (all_of(remove("a"), link("a", "a")), ["data.folder_A", "{root}/a", "does not exist"]),
    "name that is not UTF-8": (
        lambda root: Path(os.fsdecode(b"a/\xff.png")).write_bytes(image(1)),
        ["folder_A/\\udcff.png", "UTF-8", "data.on_bad_image"],
    ),
    # Sources.
    "source unknown": (source("hrse2zebra"), ["data.source", "'hrse2zebra'", "horse2zebra?", "file:", "https:"]),
    "source quite unknown": (source("my images"), ["data.source", "'my images'", KNOWN, "file:", "https:"]),
    "source a path without file:": (source("../set.zip"), ["data.source", "'../set.zip'", KNOWN, "file:", "https:"]),
    "source not redistributable": (
        source("cityscapes"),
        ["data.source", "'cityscapes'", "cityscapes-dataset.com", "folders"],
    ),
    "source plain http": (
        source("http://example.org/set.zip", sha256="0" * 64),
        ["data.source", "'http://example.org/set.zip'", "https:", "file:"],
    ),
    "source ftp": (
        source("ftp://example.org/set.zip"),
        ["data.source", "'ftp://example.org/set.zip'", KNOWN, "file:", "https:"],
    ),
    "source with a password": (
        source("https://me:secret@example.org/set.zip", sha256="0" * 64),
        ["https://example.org/set.zip", "password", "file:"],
    ),
    "source without a host": (source("https:///set.zip", sha256="0" * 64), ["https:///set.zip", "data.source"]),
    "source of another machine": (
        source("file://server/set.zip", sha256="0" * 64),
        ["data.source", "'file://server/set.zip'", "'server'", "file:///", "file:path"],
    ),
    "source without its sum": (source("file:set.zip"), ["data.sha256", "empty", "sha256sum"]),
    "sum in capitals": (source("file:set.zip", sha256="A" * 64), ["data.sha256", "A" * 64, "lower case", "sha256sum"]),
    "sum of another kind": (source("file:set.zip", sha256="0" * 32), ["data.sha256", f"'{'0' * 32}'", 64, "sha256sum"]),
    "table of sums broken": (
        all_of(source("horse2zebra"), put("data/checksums.json", "{")),
        ["{root}/data/checksums.json", "not valid JSON", "line 1 column 2", "git checkout"],
    ),
    "table of sums a list": (
        all_of(source("horse2zebra"), put("data/checksums.json", "[1]")),
        ["{root}/data/checksums.json", "table", "git checkout"],
    ),
    # Archives.
    "archive missing": (
        source("file:gone.zip", sha256="0" * 64),
        ["data.source", "'file:gone.zip'", "{root}/gone.zip"],
    ),
    "archive a folder": (source("file:a", sha256="0" * 64), ["data.source", "'file:a'", "{root}/a"]),
    "archive with a NUL in its name": (
        source("file:a%00b.zip", sha256="0" * 64),
        ["data.source", "'file:a%00b.zip'", "{root}/a\\x00b.zip"],
    ),
    "archive of another sum": (
        all_of(archive(zipped(GOOD_SET)), put("set.zip", "other")),
        ["{root}/set.zip", "SHA-256", sha256(b"other"), sha256(zipped(GOOD_SET)), "data.source", "data.sha256"],
    ),
    "archive that is a web page": (
        archive(b"<!DOCTYPE html><title>404</title>"),
        ["set.zip", "zip or tar", "data.source"],
    ),
    "archive empty file": (archive(b""), ["set.zip", "zip or tar", "data.source"]),
    "archive of a kind that is not read": (
        archive(b"Rar!\x1a\x07\x00" + bytes(100), "set.rar"),
        ["set.rar", "zip or tar", "data.source"],
    ),
    "archive 7z": (archive(b"7z\xbc\xaf\x27\x1c" + bytes(100), "set.7z"), ["set.7z", "zip or tar", "data.source"]),
    "archive with a password": (archive(locked()), ["set.zip", "password", "data.source: folders"]),
    "archive cut short": (archive(zipped(GOOD_SET)[:-40]), ["set.zip", "cut short", "File is not a zip file"]),
    "archive empty zip": (archive(zipped({})), ["no folders", *LAYOUTS]),
    "archive of another layout": (
        archive(zipped({"cats/1.png": image(1), "dogs/1.png": image(2)})),
        ["cats, dogs", *LAYOUTS],
    ),
    "archive of one domain": (archive(zipped({"trainA/1.png": image(1)})), ["folders trainA", *LAYOUTS]),
    "archive with an empty domain": (
        archive(zipped({"trainA/1.png": image(1), "trainB/notes.txt": b""})),
        ["domain B", "trainB", ENDINGS],
    ),
    "archive of loose images": (archive(zipped({"1.png": image(1), "2.png": image(2)})), ["no folders", *LAYOUTS]),
    "archive of single images in train": (
        archive(zipped({"train/1.png": image(1)})),
        ["train/1.png", "20×16", *LAYOUTS],
    ),
    "archive that leaves its folder": (
        archive(zipped({"../../params.yaml": b"mine"})),
        ["set.zip", "'../../params.yaml'", "leaves", "refused"],
    ),
    "archive with a link": (
        archive(tarred("trainA", tarfile.SYMTYPE, "/etc"), "set.tar.gz"),
        ["set.tar.gz", "'trainA'", "link", "refused"],
    ),
    "archive with a line break in a name": (
        archive(zipped({"/x\ny.png": b""})),
        ["set.zip", "'/x\\ny.png'", "absolute path", "refused"],
    ),
    "archive that is a bomb": (archive(zip_bomb()), ["set.zip", "67,108,864", "bomb"]),
    # The output.
    "a file in data's place": (all_of(remove("data"), put("data", "mine")), ["{root}/data", "File exists"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fetch_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses("fetch", *REFUSED[name])


@pytest.mark.parametrize("name", ["folder missing", "archive that is a bomb"])
def test_a_process_of_its_own_prints_the_same(refuses: Callable[..., None], name: str) -> None:
    refuses("fetch", *REFUSED[name], own_process=True)
