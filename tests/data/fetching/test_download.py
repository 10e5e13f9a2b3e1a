"""Downloads from a real https server on loopback that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cyclegan import params
from cyclegan.data.fetching import download as downloading
from cyclegan.data.fetching import sources
from cyclegan.data.fetching.download import download, without_secrets
from cyclegan.data.fetching.raw_folder import fetch
from cyclegan.project import Project
from cyclegan.system.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """The behavior of the server, and the requests it received."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    cut_after: list[int] = field(default_factory=list)
    """Bytes of the body after which the connection is cut, for each of the next answers."""
    ranges: bool = True
    tell_length: bool = True
    status: list[int] = field(default_factory=list)
    redirect: str | None = None
    ranges_asked: list[str | None] = field(default_factory=list)


def handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.ranges_asked.append(asked)
            if server.status:
                self.send_error(server.status.pop(0))
                return
            if server.redirect and self.path != "/moved":
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.end_headers()
                return
            start, total = 0, len(server.content)
            same = self.headers.get("If-Range") in (None, server.etag)
            if asked and server.ranges and same:
                found = re.fullmatch(r"bytes=(\d+)-", asked)
                assert found is not None
                start = int(found[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            if server.etag:
                self.send_header("ETag", server.etag)
            if server.tell_length:
                self.send_header("Content-Length", str(total - start))
            self.end_headers()
            body = server.content[start:]
            if server.cut_after:
                self.wfile.write(body[: server.cut_after.pop(0)])
                self.wfile.flush()
                self.connection.close()
            else:
                self.wfile.write(body)

    return Handler


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {path} -out {path}.crt"
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_name("server.pem.crt").read_bytes())
    return path


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
    http_server.handle_error = lambda *_: None  # type: ignore[method-assign]
    state.url = f"https://localhost:{http_server.server_port}/set.zip"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    http_server.shutdown()
    thread.join()
    http_server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "set.zip"


def test_whole_file(server: Server, target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert download(server.url, target, SUM) == SUM
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    progress = capfd.readouterr().err
    assert "set.zip" in progress
    assert "2.86M" in progress
    assert "B/s" in progress


def test_a_cut_download_resumes_within_one_call(server: Server, target: Path) -> None:
    server.cut_after = [1_000_000, 500_000]
    assert download(server.url, target, SUM, pause_s=0) == SUM
    first, second, third = server.ranges_asked
    assert first is None
    assert second is not None
    assert third is not None
    assert 0 < int(second[6:-1]) < int(third[6:-1]) < len(CONTENT)


def test_a_cut_download_resumes_in_a_later_call(server: Server, target: Path) -> None:
    server.cut_after = [1_000_000] + [0] * downloading.ATTEMPTS
    with pytest.raises(UserError, match=r"download stopped after [\d,]+ bytes \(.+\)"):
        download(server.url, target, SUM, pause_s=0)
    got = target.with_name("set.zip.part").stat().st_size
    assert 0 < got <= 1_000_000
    server.ranges_asked.clear()
    assert download(server.url, target, SUM, pause_s=0) == SUM
    assert server.ranges_asked == [f"bytes={got}-"]


def test_a_changed_file_is_downloaded_from_the_start(server: Server, target: Path) -> None:
    server.cut_after = [1_000_000] + [0] * downloading.ATTEMPTS
    with pytest.raises(UserError, match="download stopped"):
        download(server.url, target, None, pause_s=0)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert download(server.url, target, None, pause_s=0) == hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.mark.parametrize("lacking", ["ranges", "etag"])
def test_a_server_that_cannot_resume_sends_the_file_from_the_start(server: Server, target: Path, lacking: str) -> None:
    server.ranges, server.etag = lacking != "ranges", None if lacking == "etag" else '"v1"'
    server.cut_after = [1_000_000]
    assert download(server.url, target, SUM, pause_s=0) == SUM
    assert target.read_bytes() == CONTENT


def test_a_request_to_a_busy_server_is_repeated(server: Server, target: Path) -> None:
    server.status = [503, 429]
    assert download(server.url, target, SUM, pause_s=0) == SUM


def test_no_length_no_download(server: Server, target: Path) -> None:
    server.tell_length = False
    with pytest.raises(UserError, match="does not send the file size"):
        download(server.url, target, SUM)


def test_a_request_for_a_missing_file_is_not_repeated(server: Server, target: Path) -> None:
    server.status = [404]
    with pytest.raises(UserError, match="the server answers 404"):
        download(server.url, target, SUM)
    assert len(server.ranges_asked) == 1


def test_a_wrong_checksum_leaves_no_file(server: Server, target: Path) -> None:
    with pytest.raises(UserError, match=f"SHA-256 is {SUM}, expected {'0' * 64}"):
        download(server.url, target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_an_existing_file_is_verified_and_not_downloaded(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert download(server.url, target, SUM) == SUM
    assert server.ranges_asked == []
    target.write_bytes(b"other")
    with pytest.raises(UserError, match=r"expected .* delete it"):
        download(server.url, target, SUM)
    assert target.read_bytes() == b"other"


def test_size_limit(server: Server, target: Path) -> None:
    with pytest.raises(UserError, match=r"3,000,000.* 2,999,999"):
        download(server.url, target, SUM, max_bytes=2_999_999)


def test_redirect_to_plain_http_is_refused(server: Server, target: Path) -> None:
    server.redirect = "http://localhost:1/set.zip?token=secret"
    with pytest.raises(UserError, match=r"redirects to http://localhost:1/set.zip, not to https") as error:
        download(server.url, target, SUM)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://me:secret@localhost:99999999/",
        "https://me:secret@localhost:99999999/",
        "https://localhost:secret/",
        "https://[secret/",
        "https://secret..localhost/",
    ],
)
def test_redirect_to_an_invalid_address_is_reported(server: Server, target: Path, address: str) -> None:
    server.redirect = address
    with pytest.raises(UserError, match=r"/set\.zip: .* host") as error:
        download(server.url, target, SUM)
    assert "secret" not in str(error.value)


def test_redirect_to_https_is_followed(server: Server, target: Path) -> None:
    server.redirect = server.url.replace("/set.zip", "/moved")
    assert download(server.url, target, SUM) == SUM


def test_an_unknown_certificate_is_refused_at_once(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match="its certificate is not trusted"):
        download(server.url, target, SUM)


@pytest.mark.parametrize("url", ["http://localhost/x.zip", "ftp://localhost/x.zip", "file:///etc/passwd"])
def test_only_https(target: Path, url: str) -> None:
    with pytest.raises(UserError, match="not an https or file address"):
        download(url, target, SUM)


def test_secrets_are_neither_used_nor_shown(target: Path) -> None:
    with pytest.raises(UserError, match="must not hold a user name or password") as error:
        download("https://me:hunter2@localhost/x.zip", target, SUM)
    assert "hunter2" not in str(error.value)
    assert without_secrets("https://me:pw@host:8443/a/b.zip?sig=abc#x") == "https://host:8443/a/b.zip"


@pytest.fixture
def public_set(
    server: Server, tmp_path: Path, paint_domains: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> str:
    """A tiny `horse2zebra` on the loopback server instead of the public host."""
    paint_domains(tmp_path / "made" / "horse2zebra", trainA=3, trainB=3, testA=1, testB=1)
    archive = shutil.make_archive(str(tmp_path / "horse2zebra"), "zip", tmp_path / "made")
    server.content = Path(archive).read_bytes()
    monkeypatch.setitem(sources.PUBLIC, "horse2zebra", server.url)
    return "horse2zebra"


def test_the_checksum_of_a_public_set_is_recorded_and_then_verified(
    server: Server, public_set: str, project: Project, data: Callable[..., params.Data]
) -> None:
    fetch(data(source=public_set), project)
    found = hashlib.sha256(server.content).hexdigest()
    assert project.checksums.read_text() == f'{{\n  "horse2zebra": "{found}"\n}}\n'
    shutil.rmtree(project.downloads)
    server.content += b"changed"
    with pytest.raises(UserError, match=f"expected {found}"):
        fetch(data(source=public_set), project)


def test_a_file_that_is_no_archive_is_neither_recorded_nor_kept(
    server: Server, public_set: str, project: Project, data: Callable[..., params.Data]
) -> None:
    good, server.content = server.content, b"<html>We are moving house</html>"
    with pytest.raises(UserError, match="is not a zip or tar archive"):
        fetch(data(source=public_set), project)
    assert not project.checksums.exists()
    assert not project.raw.exists()
    server.content = good
    fetch(data(source=public_set), project)
    assert len(list(project.raw.rglob("*.png"))) == 8


def test_archive_by_address(
    server: Server, public_set: str, project: Project, data: Callable[..., params.Data]
) -> None:
    fetch(data(source=server.url, sha256=hashlib.sha256(server.content).hexdigest()), project)
    assert len(list(project.raw.rglob("*.png"))) == 8
    assert not project.checksums.exists()
