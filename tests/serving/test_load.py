"""`cyclegan serve` with many clients: batches, the limit, the counters for an operator, and a stop."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Served, serving
from starlette.exceptions import HTTPException

from cyclegan.cli import main
from cyclegan.models.translator import Translator, load_generator
from cyclegan.serving.app import translated_pngs
from cyclegan.serving.batches import Batches

CLIENTS = 32


def pixels_of(seed: int) -> np.ndarray:
    """A random image of one of two sizes."""
    return np.random.default_rng(seed).integers(0, 256, (24, 24 + 8 * (seed % 2), 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def decoded(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body))).astype(int)


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def value_of(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"{series} is not in\n{text}"
    return float(found[1])


# Batches ---------------------------------------------------------------------------------------------------------


def gathered(files: Sequence[tuple[str, tuple[int, int]]], max_pixels: int) -> tuple[list[object], list[list[str]]]:
    """The answers for files that wait at the same moment, and the batches they went in."""
    calls: list[list[str]] = []

    def translate(batch: Sequence[Path]) -> list[str | Exception]:
        calls.append([file.name for file in batch])
        return [HTTPException(415) if file.name == "bad" else file.name.upper() for file in batch]

    async def all_answers() -> list[object]:
        batches = Batches(translate, max_pixels)
        waiting = [batches.translate(Path(name), size) for name, size in files]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert (batches.count, batches.images, batches.waiting) == (len(calls), len(files), 0)
        return list(answers)

    return asyncio.run(all_answers()), calls


def test_waiting_images_of_one_size_go_together() -> None:
    small, large = (10, 10), (20, 10)
    answers, calls = gathered([("a", small), ("b", large), ("c", small), ("d", small), ("e", large)], max_pixels=250)
    assert answers == ["A", "B", "C", "D", "E"]
    # Two small images are at most 250 pixels. A large one is more than half of them.
    assert calls == [["a", "c"], ["b"], ["d"], ["e"]]


def test_a_file_that_fails_fails_alone() -> None:
    answers, calls = gathered([("a", (1, 1)), ("bad", (1, 1)), ("c", (1, 1))], max_pixels=100)
    assert calls == [["a", "bad", "c"]]
    assert isinstance(answers[1], HTTPException)
    assert [answers[0], answers[2]] == ["A", "C"]


def test_a_batch_gives_each_file_its_own_translation(model: Path, tmp_path: Path) -> None:
    translator = Translator(load_generator(model))
    files = []
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(png(pixels_of(seed)))
        files.append(tmp_path / f"{seed}.png")
    (tmp_path / "text.png").write_text("hello")
    *results, failed = translated_pngs(translator, [*files, tmp_path / "text.png"], max_pixels=10_000)
    assert isinstance(failed, HTTPException)
    for seed, result in enumerate(results):
        assert isinstance(result, bytes)
        assert np.abs(decoded(result) - translator.translate(pixels_of(seed)[None])[0]).max() <= 1


# The server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(model: Path) -> Iterator[Served]:
    with serving(model, "--max-images", "2", "--access-log") as served:
        yield served


def test_images_beyond_the_limit_are_refused_and_counted(limited: Served) -> None:
    body = png(pixels_of(0))
    head = f"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    uploads = [socket.create_connection(("127.0.0.1", limited.port), timeout=60) for _ in range(2)]
    try:
        for upload in uploads:
            upload.sendall(head.encode() + body[:10])
        while value_of(get(limited.port, "/metrics")[1], "cyclegan_open_images") < 2:
            pass
        connection = http.client.HTTPConnection("127.0.0.1", limited.port, timeout=60)
        connection.request("POST", "/translate", body)
        refused = connection.getresponse()
        assert (refused.status, refused.getheader("Retry-After")) == (503, "1")
        # An operator still gets answers.
        assert get(limited.port, "/health") == (200, "ok\n")
        for upload in uploads:
            upload.sendall(body[10:])
            assert upload.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    finally:
        for upload in uploads:
            upload.close()
    text = get(limited.port, "/metrics")[1]
    assert value_of(text, "cyclegan_rejected_images_total") == 1
    assert value_of(text, 'cyclegan_requests_total{path="/translate",status="503"}') == 1
    assert value_of(text, 'cyclegan_requests_total{path="/translate",status="200"}') == 2
    assert value_of(text, "cyclegan_batched_images_total") == 2
    assert value_of(text, 'cyclegan_request_seconds_bucket{le="+Inf"}') == value_of(
        text, "cyclegan_request_seconds_count"
    )


def test_the_access_log_is_one_object_a_request(limited: Served) -> None:
    assert get(limited.port, "/no-such-page?secret=1")[0] == 404
    assert limited.process.stdout is not None
    entry = json.loads(limited.process.stdout.readline())
    while entry["path"] != "/no-such-page":
        entry = json.loads(limited.process.stdout.readline())
    assert set(entry) == {"time", "client", "method", "path", "status", "seconds", "bytes"}
    assert (entry["client"], entry["method"], entry["status"]) == ("127.0.0.1", "GET", 404)
    # Paths of clients make no series of their own.
    text = get(limited.port, "/metrics")[1]
    assert "no-such-page" not in text
    assert value_of(text, 'cyclegan_requests_total{path="other",status="404"}') == 1


def test_the_limit_of_images_must_be_positive(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", str(model), "--max-images", "0"])
    assert end.value.code == 2
    assert "--max-images 0: must be at least 1" in capsys.readouterr().err


class Client(threading.Thread):
    """A client that sends one image after the other, and compares each answer with its own image's translation."""

    def __init__(self, port: int, seed: int, expected: np.ndarray, go_on: Callable[[int], bool]) -> None:
        super().__init__()
        self._port, self._body, self._expected, self._go_on = port, png(pixels_of(seed)), expected, go_on
        self.statuses: list[int] = []
        self.wrong = 0
        self.refused = False

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        while self._go_on(len(self.statuses)):
            try:
                connection.request("POST", "/translate", self._body)
                answer = connection.getresponse()
                body = answer.read()
            except ConnectionError:
                # The server does not listen anymore.
                self.refused = True
                return
            self.statuses.append(answer.status)
            if answer.status == 200:
                got = decoded(body)
                self.wrong += got.shape != self._expected.shape or np.abs(got - self._expected).max() > 1


def clients_of(served: Served, go_on: Callable[[int], bool]) -> list[Client]:
    translator = Translator(load_generator(served.model))
    expected = [translator.translate(pixels_of(seed)[None])[0].astype(int) for seed in range(CLIENTS)]
    return [Client(served.port, seed, expected[seed], go_on) for seed in range(CLIENTS)]


def memory_of(process: int) -> int:
    """The resident memory of a process in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_many_clients_all_get_their_own_images(model: Path) -> None:
    images = 15
    # A client may send its next image before the server has counted the end of the previous one.
    with serving(model, "--max-images", str(2 * CLIENTS)) as served:
        clients = clients_of(served, lambda sent: sent < images)
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert [client.statuses for client in clients] == [[200] * images] * CLIENTS
        assert sum(client.wrong for client in clients) == 0
        text = get(served.port, "/metrics")[1]
        assert value_of(text, "cyclegan_batched_images_total") == CLIENTS * images
        assert value_of(text, "cyclegan_batches_total") < CLIENTS * images / 2
        assert value_of(text, "cyclegan_open_images") == value_of(text, "cyclegan_waiting_images") == 0


@pytest.mark.slow
def test_a_stop_under_load_mixes_up_and_cuts_off_nothing(model: Path) -> None:
    with serving(model, "--max-images", str(2 * CLIENTS)) as served:
        clients = clients_of(served, lambda _sent: True)
        for client in clients:
            client.start()
        while any(len(client.statuses) < 2 for client in clients):
            assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0
        for client in clients:
            client.join()
        assert all(client.refused for client in clients)
        assert {status for client in clients for status in client.statuses} <= {200, 503}
        assert sum(client.wrong for client in clients) == 0
