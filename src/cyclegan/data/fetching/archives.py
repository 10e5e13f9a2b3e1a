"""Unpack untrusted archives."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from cyclegan.data.images.layout import shown
from cyclegan.system.errors import UserError, one_line

CHUNK = 1 << 20
SHOW_PROGRESS_FROM = 64 * 2**20
MAGIC = {"zip": b"PK", "gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}
OPENERS: dict[str, Any] = {"tar": open, "gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}


@dataclass(frozen=True)
class Limits:
    """Limits on the content of an archive, far above that of every public set."""

    members: int = 2_000_000
    total_bytes: int = 200 * 2**30
    ratio: int = 200
    """Largest unpacked size relative to the archive's size; checked above `free_bytes` of unpacked data."""
    free_bytes: int = 64 * 2**20


def extract(archive: Path, into: Path, limits: Limits | None = None) -> None:
    """Unpack a zip or tar archive (plain, gzip, bzip2, xz) into the existing folder `into`.

    Only regular files and folders are unpacked. All of them are inside `into`, and none replaces another. Sizes are
    counted while unpacking; sizes in headers are not trusted.

    Raises:
        UserError: the archive is not zip or tar, corrupt, cut short, password-protected or above a limit, or a member
            leaves the folder, is a link or device, or has the name of another. Unpacked files stay in `into`.
    """
    limits = limits or Limits()
    name = shown(archive.name)
    with _archive_errors(name), ExitStack() as stack:
        if not archive.is_file():
            raise UserError(f"{name}: is not a file; check data.source")
        size = archive.stat().st_size
        bar = stack.enter_context(
            tqdm(desc=f"unpack {name}", unit="B", unit_scale=True, unit_divisor=1024, disable=size < SHOW_PROGRESS_FROM)
        )
        meter = _Meter(name, size, limits, bar)
        kind = _kind(archive)
        if kind == "zip":
            _extract_zip(stack.enter_context(zipfile.ZipFile(archive)), into, meter)
        elif kind is not None:
            stream = stack.enter_context(OPENERS[kind](archive, "rb"))
            _extract_tar(_Counted(stream, meter), into, meter)
        else:
            raise UserError(f"{name}: is not a zip or tar archive; check data.source")


class _Meter:
    """Counts members and bytes against the limits."""

    def __init__(self, name: str, archive_bytes: int, limits: Limits, bar: tqdm[Any]) -> None:
        self.name = name
        self.bar = bar
        self.limits = limits
        self.members = 0
        self.bytes = 0
        self.most = min(limits.total_bytes, max(limits.free_bytes, limits.ratio * archive_bytes))

    def member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise UserError(f"{self.name}: holds more than {self.limits.members:,} members; use another archive")

    def data(self, count: int) -> None:
        self.bytes += count
        self.bar.update(count)
        if self.bytes > self.most:
            raise UserError(
                f"{self.name}: unpacks to more than {self.most:,} bytes, like a decompression bomb; unpack it yourself "
                "and use data.source: folders"
            )


class _Counted:
    """A stream whose bytes are counted while they are read."""

    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        self._stream = stream
        self._meter = meter

    def read(self, count: int = CHUNK) -> bytes:
        data = self._stream.read(count)
        self._meter.data(len(data))
        return data


def _extract_zip(archive: zipfile.ZipFile, into: Path, meter: _Meter) -> None:
    for member in archive.infolist():
        meter.member()
        # zipfile cuts filename, but not orig_filename, at a NUL character.
        target = into / inside(member.orig_filename, meter.name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if member.flag_bits & 0x1:
            raise UserError(f"{meter.name}: needs a password; unpack it yourself and use data.source: folders")
        if member.is_dir():
            _make_folder(target, meter.name, member.filename)
        elif kind not in (0, stat.S_IFREG):
            raise _refused(meter.name, member.filename, "is a link or device")
        else:
            with archive.open(member) as source:
                _write(_Counted(source, meter), target, meter.name, member.filename)


def _extract_tar(stream: _Counted, into: Path, meter: _Meter) -> None:
    # "r|" reads the stream once, from front to back. Every byte is counted before tarfile gets it, headers included.
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            meter.member()
            # A tar file of the current folder starts with an entry for the folder itself.
            if member.isdir() and member.name.strip("./") == "" and not member.name.startswith(("/", "..")):
                continue
            target = into / inside(member.name, meter.name)
            if member.isdir():
                _make_folder(target, meter.name, member.name)
            elif not member.isreg() or member.issparse():
                raise _refused(meter.name, member.name, "is a link, device or sparse file")
            else:
                _write(archive.extractfile(member), target, meter.name, member.name)
    # Read to the end, where compressed streams have a checksum.
    while stream.read():
        pass


def inside(name: str, archive: str) -> PurePosixPath:
    """Convert a member's name to a relative path that cannot leave the target folder.

    Raises:
        UserError: the name is empty or absolute, or has `..`, a drive letter, a backslash or a NUL character.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _refused(archive, name, "has an absolute path")
    if ".." in parts:
        raise _refused(archive, name, "leaves the target folder")
    if "\\" in name or "\0" in name or any(re.match(r"^[A-Za-z]:", part) for part in parts):
        raise _refused(archive, name, "has a drive letter, backslash or NUL in its name")
    if not parts:
        raise _refused(archive, name, "has no name")
    return PurePosixPath(*parts)


def _make_folder(target: Path, archive: str, name: str) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _refused(archive, name, "is both a file and a folder") from None


def _write(source: Any, target: Path, archive: str, name: str) -> None:
    """Copy a member to a file that must not exist yet."""
    _make_folder(target.parent, archive, name)
    try:
        with target.open("xb") as out:
            shutil.copyfileobj(source, out, CHUNK)
    except FileExistsError:
        raise _refused(archive, name, "has the name of an earlier member") from None


def _refused(archive: str, member: str, reason: str) -> UserError:
    return UserError(
        f"{archive}: refused, because member {member!r} {reason}; unpack it yourself and use data.source: folders"
    )


def _kind(archive: Path) -> str | None:
    """Detect `zip` or the compression of a tar archive from the first bytes."""
    with archive.open("rb") as file:
        start = file.read(512)
    for kind, magic in MAGIC.items():
        if start.startswith(magic):
            return kind
    # The header of a tar file contains this word since POSIX 1988.
    return "tar" if start[257:262] == b"ustar" else None


@contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise UserError(f"{name}: unsupported compression ({error}); pack it as zip or tar.gz") from None
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        UnicodeError,
        ValueError,
    ) as error:
        raise UserError(f"{name}: is corrupt or cut short ({one_line(error)}); download it again") from None
    except OSError as error:
        # gzip and bz2 report corrupt data as OSError without a number. A corrupt zip file can point to a place before
        # the start of the file (EINVAL). All other system errors have another cause.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{name}: is corrupt or cut short ({error}); download it again") from None
