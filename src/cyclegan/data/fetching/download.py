"""Download one file over https. An interrupted download resumes."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from cyclegan.system import files
from cyclegan.system.errors import UserError

CHUNK = 1 << 20
TIMEOUT_S = 60
ATTEMPTS = 5
"""Attempts without a new byte before the download fails."""
MAX_BYTES = 64 * 2**30


def download(url: str, target: Path, sha256: str | None, *, max_bytes: int = MAX_BYTES, pause_s: float = 1.0) -> str:
    """Download `url` to `target` and return its SHA-256.

    An existing file with the right checksum is used. The data goes to `<target>.part`; after an interruption, the
    download resumes there if the server still offers the same file.

    Raises:
        UserError: the address is not https, the server refuses or is unreachable, or the file is too large or has
            another checksum than `sha256`.
    """
    shown = without_secrets(url)
    if urlsplit(url).scheme != "https":
        raise UserError(f"{shown}: not an https or file address; check data.source")
    if not urlsplit(url).hostname:
        raise UserError(f"{shown}: has no server name; check data.source")
    if urlsplit(url).username is not None:
        raise UserError(f"{shown}: must not hold a user name or password; download the file and use file:")
    if target.exists():
        return check_sum(target, sha256, "delete it to download it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Part(target)
    idle, pause = 0, pause_s
    while True:
        before = part.size
        try:
            complete = _attempt(url, part, max_bytes, shown)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise UserError(f"{shown}: the server answers {error.code} {error.reason}; check data.source") from None
            if error.code == 416:
                part.remove()
            reason: object = f"the server answers {error.code} {error.reason}"
            complete = False
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise UserError(
                    f"{shown}: its certificate is not trusted ({reason.verify_message}); download it and use file:"
                ) from None
            complete = False
        else:
            reason = "the connection was cut"
        if complete:
            break
        idle = 0 if part.size > before else idle + 1
        pause = pause_s if part.size > before else min(2 * pause, 30)
        if idle >= ATTEMPTS:
            raise UserError(
                f"{shown}: download stopped after {part.size:,} bytes ({reason}); run the command again to resume"
            )
        time.sleep(pause)
    try:
        found = check_sum(part.path, sha256, "check data.source and data.sha256", shown)
    except UserError:
        part.remove()
        raise
    part.path.replace(target)
    part.remove()
    files.sync_folder(target.parent)
    return found


def check_sum(path: Path, sha256: str | None, remedy: str, name: str | None = None) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        UserError: it differs from `sha256`.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise UserError(f"{name or path}: SHA-256 is {found}, expected {sha256}; {remedy}")
    return found


def without_secrets(url: str) -> str:
    """An address without user name, password, query and fragment, for messages and records."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


@dataclass(frozen=True)
class Offer:
    """The server's description of the file that a part belongs to."""

    url_sum: str
    validator: str
    """Strong ETag, else Last-Modified. With it in If-Range, the server sends the rest only if the file is the same."""
    total: int


class Part:
    """An incomplete file, and the note beside it with its `Offer`."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def offer(self, url: str) -> Offer | None:
        """The note, if it belongs to `url` and the download can resume."""
        try:
            offer = Offer(**json.loads(self.note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return offer if offer.url_sum == _url_sum(url) and 0 < self.size <= offer.total else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _attempt(url: str, part: Part, max_bytes: int, shown: str) -> bool:
    """Read what the server sends; return whether the file is complete."""
    offer = part.offer(url)
    if offer is None:
        part.remove()
    elif part.size == offer.total:
        return True
    headers = {"Accept-Encoding": "identity", "User-Agent": "cyclegan"}
    if offer is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": offer.validator}
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        answer = opener.open(request, timeout=TIMEOUT_S)
    except ValueError:
        # The error message may contain a part of the address, hence a secret.
        raise UserError(f"{shown}: invalid host or port, here or in a redirect; check data.source") from None
    with answer as response:
        if offer is not None and _continues(response, part.size, offer.total):
            total: int | None = offer.total
        else:
            part.remove()
            total = _length(response)
            if total is None and not response.chunked:
                raise UserError(f"{shown}: the server does not send the file size; download the file and use file:")
            if total is not None and total > max_bytes:
                raise UserError(
                    f"{shown}: {total:,} bytes, above the limit of {max_bytes:,}; download the file and use file:"
                )
            validator = _validator(response)
            if total is not None and validator:
                files.write_json(part.note, asdict(Offer(_url_sum(url), validator, total)))
        free = shutil.disk_usage(part.path.parent).free
        if total is not None and total - part.size > free:
            raise UserError(
                f"{shown}: needs {total - part.size:,} more bytes, but only {free:,} are free in {part.path.parent}; "
                "free some space"
            )
        _read(response, part, total, max_bytes, shown)
    return total is None or part.size == total


def _read(response: IO[bytes], part: Part, total: int | None, max_bytes: int, shown: str) -> None:
    name = part.path.name.removesuffix(".part")
    with (
        part.path.open("ab") as out,
        tqdm(desc=name, total=total, initial=part.size, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        while chunk := response.read(CHUNK):
            if part.size + len(chunk) > max_bytes:
                part.remove()
                raise UserError(f"{shown}: above the limit of {max_bytes:,} bytes; download the file and use file:")
            out.write(chunk)
            out.flush()
            bar.update(len(chunk))


def _continues(response: http.client.HTTPResponse, start: int, total: int) -> bool:
    """Whether the server sends exactly the missing rest of the file."""
    return response.status == 206 and response.headers.get("Content-Range") == f"bytes {start}-{total - 1}/{total}"


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _validator(response: http.client.HTTPResponse) -> str:
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _url_sum(url: str) -> str:
    """A digest of the address for the note; the address itself may contain a token."""
    return hashlib.sha256(url.encode()).hexdigest()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        parts = urlsplit(newurl)
        _ = parts.port  # Reading the port checks it.
        if parts.scheme != "https":
            raise UserError(
                f"{without_secrets(req.full_url)}: redirects to {without_secrets(newurl)}, not to https; download the "
                "file and use file:"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
