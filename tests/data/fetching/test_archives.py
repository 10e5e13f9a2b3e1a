"""Archives: good ones are unpacked, and a collection of hostile ones is refused."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclegan.data.fetching.archives import Limits, extract, inside
from cyclegan.system.errors import UserError

CONTENT = {"set/trainA/1.png": b"one", "set/trainB/2.png": b"two" * 1000, "set/empty": b""}


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_with(info: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info)
    return buffer.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def zip_twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", "first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", "second")
    return buffer.getvalue()


def zip_locked() -> bytes:
    """A stored member whose headers say that it is encrypted."""
    raw = bytearray(zip_bytes({"a.png": b"secret content"}, zipfile.ZIP_STORED))
    raw[6] |= 1
    central = raw.index(b"PK\x01\x02")
    raw[central + 8] |= 1
    return bytes(raw)


def zip_that_lies_about_its_size() -> bytes:
    """20 MB of zeros whose directory claims 10 bytes."""
    raw = bytearray(zip_bytes({"a.png": b"\0" * 20_000_000}))
    central = raw.index(b"PK\x01\x02")
    struct.pack_into("<I", raw, central + 24, 10)
    return bytes(raw)


def zip_overlapping() -> bytes:
    """Two directory entries that share one member's data."""
    raw = zip_bytes({"a.png": b"x" * 100})
    central, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry = raw[central:end]
    tail = bytearray(raw[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(entry))
    return raw[:central] + entry + entry.replace(b"a.png", b"b.png") + bytes(tail)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "zip ..": (zip_bytes({"../x.png": b""}), "leaves the target folder"),
    "zip deep ..": (zip_bytes({"a/b/../../../x.png": b""}), "leaves the target folder"),
    "zip absolute": (zip_bytes({"/etc/x.png": b""}), "has an absolute path"),
    "zip double slash": (zip_bytes({"//host/x.png": b""}), "has an absolute path"),
    "zip drive": (zip_bytes({"C:/x.png": b""}), "drive letter, backslash or NUL"),
    "zip drive relative": (zip_bytes({"C:x.png": b""}), "drive letter, backslash or NUL"),
    "zip drive inside": (zip_bytes({"a/C:/x.png": b""}), "drive letter, backslash or NUL"),
    "zip backslash": (zip_bytes({"..\\x.png": b""}), "drive letter, backslash or NUL"),
    "zip UNC": (zip_bytes({"\\\\host\\x.png": b""}), "drive letter, backslash or NUL"),
    "zip only dots": (zip_bytes({"./.": b""}), "has no name"),
    "zip folder ..": (zip_bytes({"../x/": b""}), "leaves the target folder"),
    "zip link": (zip_link(), "is a link or device"),
    "zip twice": (zip_twice(), "has the name of an earlier member"),
    "zip file and folder": (zip_bytes({"a": b"", "a/b.png": b""}), "is both a file and a folder"),
    "zip locked": (zip_locked(), "needs a password"),
    "zip bomb": (zip_bytes({"a.png": b"\0" * 20_000_000}), "decompression bomb"),
    "zip lying": (zip_that_lies_about_its_size(), "corrupt|bomb"),
    "zip overlapping": (zip_overlapping(), "corrupt|bomb"),
    "zip cut": (zip_bytes(CONTENT)[:-30], "corrupt or cut short"),
    "zip cut early": (zip_bytes(CONTENT)[:40], "corrupt or cut short"),
    "tar ..": (tar_bytes({"../x.png": b""}), "leaves the target folder"),
    "tar absolute": (tar_bytes({"/x.png": b""}), "has an absolute path"),
    "tar backslash": (tar_bytes({"a\\..\\x.png": b""}), "drive letter, backslash or NUL"),
    "tar drive": (tar_bytes({"d:/x.png": b""}), "drive letter, backslash or NUL"),
    "tar twice": (tar_bytes({"a/x.png": b"1", "a//x.png": b"2"}), "has the name of an earlier member"),
    "tar symlink": (tar_with(special("l.png", tarfile.SYMTYPE, "/etc/passwd")), "is a link, device or sparse file"),
    "tar symlink inside": (tar_with(special("l.png", tarfile.SYMTYPE, "a.png")), "is a link, device or sparse file"),
    "tar hard link": (tar_with(special("l.png", tarfile.LNKTYPE, "../../x")), "is a link, device or sparse file"),
    "tar fifo": (tar_with(special("f.png", tarfile.FIFOTYPE)), "is a link, device or sparse file"),
    "tar device": (tar_with(special("d.png", tarfile.BLKTYPE)), "is a link, device or sparse file"),
    "tar character device": (tar_with(special("d.png", tarfile.CHRTYPE)), "is a link, device or sparse file"),
    "tar bomb": (tar_bytes({"a.png": b"\0" * 20_000_000}, "w:xz"), "decompression bomb"),
    "tar gz cut": (tar_bytes(CONTENT)[:-30], "corrupt or cut short"),
    "tar xz cut": (tar_bytes(CONTENT, "w:xz")[:-30], "corrupt or cut short"),
    "tar bz2 cut": (tar_bytes(CONTENT, "w:bz2")[:-30], "corrupt or cut short"),
    "tar cut": (tar_bytes(CONTENT, "w")[:2000], "corrupt or cut short"),
    "not an archive": (b"<html>Not found</html>", "is not a zip or tar archive"),
    "old tar": (b"a.png".ljust(512, b"\0"), "is not a zip or tar archive"),
    "empty": (b"", "is not a zip or tar archive"),
    "gzip of text": (gzip.compress(b"hello"), "is corrupt or cut short|is not a zip"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "is not a zip or tar archive"),
}

SMALL = Limits(members=50, total_bytes=10_000_000, ratio=20, free_bytes=1_000_000)


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[bytes], dict[str, bytes]]:
    def run(content: bytes, limits: Limits | None = None) -> dict[str, bytes]:
        archive, into = tmp_path / "archive", tmp_path / "deep" / "into"
        archive.write_bytes(content)
        into.mkdir(parents=True)
        extract(archive, into, limits)
        return everything(into)

    return run


@pytest.mark.parametrize(
    "content",
    [
        zip_bytes(CONTENT),
        zip_bytes(CONTENT, zipfile.ZIP_STORED),
        zip_bytes(CONTENT, zipfile.ZIP_LZMA),
        *(tar_bytes(CONTENT, mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")),
    ],
    ids=["zip", "stored zip", "lzma zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_good_archives_are_unpacked_unchanged(unpack: Callable[..., dict[str, bytes]], content: bytes) -> None:
    assert unpack(content) == CONTENT


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, unpack: Callable[..., dict[str, bytes]], name: str) -> None:
    content, reason = HOSTILE[name]
    with pytest.raises(UserError, match=reason) as error:
        unpack(content, SMALL)
    assert "\n" not in str(error.value)
    outside = set(everything(tmp_path)) - {f"deep/into/{n}" for n in everything(tmp_path / "deep" / "into")}
    assert outside == {"archive"}


def test_too_many_members(unpack: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(UserError, match="more than 50 members"):
        unpack(zip_bytes({f"{i}.png": b"" for i in range(51)}), SMALL)


def test_a_highly_compressed_set_is_no_bomb(unpack: Callable[..., dict[str, bytes]]) -> None:
    """Images of one color compress well: the ratio is checked only above a harmless size."""
    assert len(unpack(zip_bytes({"a.bmp": b"\0" * 900_000}), SMALL)["a.bmp"]) == 900_000


@given(st.text(min_size=1, max_size=30) | st.from_regex(r"([a.:/\\C]|\.\.){1,12}", fullmatch=True))
def test_no_name_leaves_the_folder(name: str) -> None:
    base = Path("/base/folder")
    try:
        path = inside(name, "archive")
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (either outcome is right)
    else:
        assert (base / path).is_relative_to(base)
        assert ".." not in path.parts
        assert not path.is_absolute()
        assert path.parts


SAMPLES = [zip_bytes(CONTENT), tar_bytes(CONTENT), tar_bytes(CONTENT, "w"), zip_locked(), zip_link()]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0.2, 1),
)
def test_corrupt_archives_end_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, sample: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    raw = bytearray(sample)
    for where, value in changes:
        raw[int(where * len(raw))] = value
    root = tmp_path_factory.mktemp("fuzz")
    (root / "archive").write_bytes(bytes(raw[: int(cut * len(raw))]))
    (root / "into").mkdir()
    try:
        extract(root / "archive", root / "into", SMALL)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)
    assert {p.name for p in root.iterdir()} == {"archive", "into"}
