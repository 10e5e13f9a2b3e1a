"""`cyclegan serve`, over real HTTP."""

from __future__ import annotations

import http.client
import io
import re
import signal
import socket
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage
import tifffile
from PIL import Image, ImageCms
from running import Served, serving
from starlette.exceptions import HTTPException

from cyclegan.cli import main
from cyclegan.models.translator import Translator, load_generator
from cyclegan.serving.app import translated_pngs
from in_process import cyclegan_here

Answer = tuple[int, dict[str, str], bytes]


def ask(served: Served, method: str = "POST", path: str = "/translate", body: object = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    chosen = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, chosen)
    answer = connection.getresponse()
    result = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return result


def image(width: int = 37, height: int = 21, mode: str = "RGB", form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def test_an_image_is_translated_at_its_own_size(served: Served) -> None:
    status, headers, body = ask(served, body=image())
    assert (status, headers["content-type"]) == (200, "image/png")
    got = np.asarray(Image.open(io.BytesIO(body)))
    expected = Translator(load_generator(served.model)).translate(np.asarray(Image.open(io.BytesIO(image())))[None])
    assert got.shape == (21, 37, 3)
    assert np.abs(got.astype(int) - expected[0]).max() <= 1


def test_an_embedded_color_profile_is_applied(served: Served) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / "rocket.jpg") as photo:
        adobe_rgb, profile = photo.crop((0, 0, 40, 24)), photo.info["icc_profile"]
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    srgb = ImageCms.profileToProfile(adobe_rgb, ImageCms.ImageCmsProfile(io.BytesIO(profile)), target)
    bodies = []
    for image, icc in ((adobe_rgb, profile), (srgb, None), (adobe_rgb, None)):
        file = io.BytesIO()
        image.save(file, "PNG", icc_profile=icc)
        bodies.append(ask(served, body=file.getvalue())[2])
    assert bodies[0] == bodies[1] != bodies[2]


def test_an_embedded_color_profile_is_logged(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / "rocket.jpg") as photo:
        photo.crop((0, 0, 40, 24)).save(tmp_path / "adobe.png", icc_profile=photo.info["icc_profile"])
    (tmp_path / "plain.png").write_bytes(image())
    translator = Translator(load_generator(model))
    with caplog.at_level("INFO", logger="cyclegan"):
        for name in ("adobe.png", "plain.png"):
            translated_pngs(translator, [tmp_path / name], max_pixels=10_000)
    assert caplog.messages == ["converted to sRGB by their color profile: 1"]


@pytest.mark.parametrize(("mode", "form"), [("L", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("P", "GIF")])
def test_other_forms_are_converted(served: Served, mode: str, form: str) -> None:
    status, _, body = ask(served, body=image(mode=mode, form=form))
    assert status == 200
    assert Image.open(io.BytesIO(body)).mode == "RGB"


def test_an_image_that_pillow_cannot_read(served: Served) -> None:
    pixels = np.full((21, 37, 2), 65535, np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", extrasamples=["unassalpha"])
    status, _, body = ask(served, body=file.getvalue())
    assert status == 200
    assert Image.open(io.BytesIO(body)).size == (37, 21)


def test_health(served: Served) -> None:
    status, _, body = ask(served, "GET", "/health")
    assert (status, body) == (200, b"ok\n")


@pytest.fixture(scope="module")
def configured(model: Path) -> Iterator[Served]:
    """A server with other options than the defaults. Each start of a server takes seconds.

    An old spelling of 127.0.0.1 is the only name in capitals that every machine has.
    """
    options = ("--bit-depth", "16", "--allowed-hosts", "Images.Example.org, 10.0.0.5", "--host", "0X7F.1")
    with serving(model, *options) as served:
        yield served


def test_sixteen_bit_images_with_a_given_depth(configured: Served) -> None:
    status, _, body = ask(configured, body=image())
    assert (status, body[24]) == (200, 16)


def bomb() -> bytes:
    """A PNG file of a few hundred bytes whose header claims 60000×60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")

    size = (60000).to_bytes(4, "big")
    header = size + size + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is empty"),
        (b"hello", 415, "not a JPEG, PNG"),
        (image()[:300], 415, "this image cannot be decoded"),
        (b"\0" * 200_001, 413, "larger than the 0.2 MB allowed"),
        (image(101, 100), 413, "101×100 pixels are more than the 0.01 million allowed"),
        (bomb(), 413, "more pixels than"),
    ],
    ids=["empty", "text", "cut short", "too many bytes", "too many pixels", "bomb"],
)
def test_unusable_files_are_refused_in_one_line(served: Served, body: bytes, status: int, message: str) -> None:
    got, headers, text = ask(served, body=body)
    assert got == status
    assert headers["content-type"].startswith("text/plain")
    assert message in text.decode()
    assert text.count(b"\n") == 1


def test_the_limit_holds_for_a_header_of_two_sizes(model: Path, tmp_path: Path) -> None:
    """Pillow ignores a width of an unknown type; tifffile, which reads 16-bit color, uses it."""
    file = tmp_path / "two.tif"
    tifffile.imwrite(file, np.zeros((20, 200, 3), np.uint16), photometric="rgb")
    data = file.read_bytes()
    for code, kind, entry in ((256, 4, (256, 17, 1, len(data))), (282, 5, (256, 4, 1, 8))):
        start = data.index(struct.pack("<HHI", code, kind, 1))
        data = data[:start] + struct.pack("<HHII", *entry) + data[start + 12 :]
    file.write_bytes(data + struct.pack("<q", 200))
    assert Image.open(file).size == (8, 20)
    (error,) = translated_pngs(Translator(load_generator(model), bit_depth=16), [file], max_pixels=1000)
    assert isinstance(error, HTTPException)
    assert (error.status_code, error.detail.split()[0]) == (413, "200×20")


def test_an_image_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    """The output needs petabytes, which every allocator refuses."""
    inputs = keras.Input((None, None, 3))
    greedy = keras.Model(inputs, keras.layers.ZeroPadding2D(2**24)(inputs))
    (tmp_path / "x.png").write_bytes(image())
    for error in translated_pngs(Translator(greedy), [tmp_path / "x.png"] * 2, max_pixels=1000):
        assert isinstance(error, HTTPException)
        assert error.status_code == 413
        assert error.detail.startswith("out of memory for 37×21 pixels; ")


def test_the_limit_holds_for_bodies_without_a_length(served: Served) -> None:
    status, _, text = ask(served, body=iter([b"\0" * 50_000] * 5))
    assert status == 413
    assert b"larger than" in text


def test_a_form_is_refused_with_the_remedy(served: Served) -> None:
    status, _, text = ask(served, body=b"--x", Content_Type="multipart/form-data; boundary=x")
    assert status == 415
    assert b"--data-binary" in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:{port}"},
        {"Origin": "http://attacker.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_web_pages_reach_nothing(served: Served, headers: dict[str, str]) -> None:
    chosen = {name: value.format(port=served.port) for name, value in headers.items()}
    status, answered, _ = ask(served, body=image(), **chosen)
    assert status == 403
    assert "access-control-allow-origin" not in answered
    status, answered, _ = ask(served, "OPTIONS", Access_Control_Request_Method="POST", **chosen)
    assert status in (403, 405)
    assert not [name for name in answered if name.startswith("access-control")]


@pytest.mark.parametrize("headers", [{"Host": "[::1"}, {"Origin": "http://["}])
def test_an_invalid_address_reaches_nothing(served: Served, headers: dict[str, str]) -> None:
    status, _, text = ask(served, body=image(), **headers)
    assert (status, text) == (403, b"the header Host or Origin holds no valid address\n")


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "localhost"])
def test_names_of_this_machine_are_accepted(served: Served, host: str) -> None:
    name = host.format(port=served.port)
    assert ask(served, body=image(), Host=name, Origin=f"http://{name}", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("images.example.org", "https://images.example.org", 200),
        ("10.0.0.5:8443", "https://10.0.0.5:8443", 200),
        # A proxy that replaces the header Host.
        ("127.0.0.1:{port}", "https://images.example.org", 200),
        ("localhost:{port}", "http://localhost:{port}", 200),
        ("attacker.example", "http://attacker.example", 403),
        ("images.example.org", "http://attacker.example", 403),
        ("127.0.0.1:{port}", "http://attacker.example", 403),
    ],
)
def test_behind_a_reverse_proxy_only_the_allowed_hosts_are_accepted(
    configured: Served, host: str, origin: str, status: int
) -> None:
    headers = {"Host": host, "Origin": origin, "Sec_Fetch_Site": "same-origin"}
    chosen = {name: value.format(port=configured.port) for name, value in headers.items()}
    assert ask(configured, body=image(), **chosen)[0] == status


def test_the_refusal_of_a_host_names_the_option(served: Served) -> None:
    status, _, text = ask(served, "GET", "/", Host="images.example.org")
    assert (status, b"--allowed-hosts" in text) == (403, True)


@pytest.mark.parametrize("name", ["https://images.example.org", "images.example.org:443", "images.example.org/p"])
def test_an_allowed_host_is_a_name_alone(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", str(model), "--allowed-hosts", name])
    assert end.value.code == 2
    assert f"--allowed-hosts {name}: must be a host name without scheme and port" in capsys.readouterr().err


def test_a_name_in_capitals_is_accepted(configured: Served) -> None:
    assert ask(configured, "GET", "/", Host=f"0X7F.1:{configured.port}")[0] == 200


def test_page_is_self_contained_and_protected(served: Served) -> None:
    status, headers, body = ask(served, "GET", "/")
    assert status == 200
    page = body.decode()
    assert "<title>&lt;b&gt;bold&amp;.keras</title>" in page
    # Nothing is known about this file, so the page names no domains.
    assert "<h1>&lt;b&gt;bold&amp;.keras</h1>" in page
    assert "<b>bold" not in page
    # It takes several images, and compares each by a slider that the keyboard moves.
    assert re.search(r'<input id="file" type="file" [^>]*multiple>', page)
    assert '<input type="range"' in page
    # The page loads nothing from other addresses.
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", page)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (nonce,) = set(re.findall(r"nonce-([\w-]+)", policy))
    assert page.count(f'nonce="{nonce}"') == 2
    assert nonce not in ask(served, "GET", "/")[1]["content-security-policy"]
    for name, value in {"x-content-type-options": "nosniff", "x-frame-options": "DENY"}.items():
        assert headers[name] == value
        assert ask(served, "GET", "/nothing")[1][name] == value
    assert ask(served, "GET", "/nothing")[0] == 404
    assert ask(served, "GET")[0] == 405


def test_many_at_once_are_all_answered(served: Served) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(served, body=image(80, 80))[0])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12


def test_an_address_in_use(served: Served) -> None:
    done = cyclegan_here("serve", served.model.name, "--port", served.port, cwd=served.model.parent)
    assert done.returncode == 2
    assert f"--host 127.0.0.1 --port {served.port}: cannot be used" in done.stderr
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_an_invalid_host_name(model: Path, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", str(model), "--host", host, "--port", "0"])
    assert end.value.code == 2
    assert f"--host {host} --port 0: cannot be used (not a valid name)" in capsys.readouterr().err


def test_an_invalid_host_name_that_no_encoding_prints(model: Path) -> None:
    done = cyclegan_here("serve", model.name, "--host", "\udcff", "--port", 0, cwd=model.parent)
    message = "cyclegan: --host \\udcff --port 0: cannot be used (not a valid name); check --host and --port\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_an_interrupted_upload_leaves_no_trace_in_the_log(model: Path) -> None:
    with serving(model) as served:
        body = image(300, 300)
        head = f"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            connection.sendall(head.encode() + body[:1000])
        # The next request is answered only after the server has noticed the end of the first.
        assert ask(served, body=body)[0] == 200
        served.process.terminate()
        assert served.process.wait(30) == 0
        assert served.process.stderr is not None
        assert served.process.stderr.read() == ""


def test_sigterm_stops_the_server_after_open_requests(model: Path) -> None:
    """A request that is open at SIGTERM is answered; then the process ends without an error."""
    with serving(model) as served:
        # The server listens before it can answer. Wait for an answer.
        assert ask(served, "GET", "/")[0] == 200
        body = image(300, 300)
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            head = f"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[:1000])
            served.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                served.process.wait(1)
            connection.sendall(body[1000:])
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        assert served.process.wait(30) == 0
