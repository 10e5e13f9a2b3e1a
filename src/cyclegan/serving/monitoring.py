"""For the operator of a server: `GET /metrics` in Prometheus' text format, an access log, and the limit of images."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMITED = "/translate"
# The upper bounds of the histogram's buckets, in seconds.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RETRY = {"Retry-After": "1"}


class Monitor:
    """Count, time and log requests, and refuse images beyond the limit.

    Args:
        app: the application.
        paths: those with a series of their own; all others share one, so that a client cannot create series.
        most: largest number of unanswered images; further ones get 503.
        log: print one JSON object for each request.
        counters: counts of this server.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str], most: int, log: bool, counters: Counters) -> None:
        self._app, self._paths, self._most, self._log, self._counters = app, frozenset(paths), most, log, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the application, or answer 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limited = scope["path"] == LIMITED
        began, status, sent = time.monotonic(), 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        counters = self._counters
        is_full = limited and counters.open >= self._most
        counters.open += limited
        try:
            if is_full:
                counters.rejected += 1
                answer = PlainTextResponse("too many images at once; send it again later\n", 503, headers=RETRY)
                await answer(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        except asyncio.CancelledError:
            # The time for open requests at a stop is over.
            if status:
                raise
            answer = PlainTextResponse("the server stops; send it again later\n", 503, headers=RETRY)
            await answer(scope, receive, counted)
        finally:
            counters.open -= limited
            seconds = time.monotonic() - began
            path = scope["path"] if scope["path"] in self._paths else "other"
            counters.add(path, status, seconds)
            if self._log:
                _print_entry(scope, status, seconds, sent)


class Counters:
    """Counters of a server since its start."""

    def __init__(self) -> None:
        self.open = 0
        """Images that are not answered yet."""
        self.rejected = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests[path, status] += 1
        if path == LIMITED:
            self._seconds += seconds
            self._buckets[next((bound for bound in BUCKETS if seconds <= bound), float("inf"))] += 1

    def text(self, waiting: int, batches: int, images: int) -> str:
        """All values in Prometheus' text format.

        Args:
            waiting: images that wait for their batch.
            batches: batches so far, with `images` images.
        """
        requests = [
            f'{{path="{path}",status="{status}"}} {count}' for (path, status), count in sorted(self._requests.items())
        ]
        cumulated, total = [], 0
        for bound in (*BUCKETS, float("inf")):
            total += self._buckets[bound]
            cumulated.append(f'_bucket{{le="{"+Inf" if bound == float("inf") else bound}"}} {total}')
        histogram = [*cumulated, f"_sum {self._seconds:.6f}", f"_count {total}"]
        series = [
            ("requests_total", "counter", "Answered requests.", requests),
            ("request_seconds", "histogram", f"Duration of requests to {LIMITED}.", histogram),
            ("open_images", "gauge", "Images that are not answered yet.", [f" {self.open}"]),
            ("waiting_images", "gauge", "Images that wait for their batch.", [f" {waiting}"]),
            ("rejected_images_total", "counter", "Images beyond the limit, answered with 503.", [f" {self.rejected}"]),
            ("batches_total", "counter", "Calls of the network.", [f" {batches}"]),
            ("batched_images_total", "counter", "Images in these calls.", [f" {images}"]),
        ]
        lines = []
        for name, kind, text, values in series:
            lines += [f"# HELP cyclegan_{name} {text}", f"# TYPE cyclegan_{name} {kind}"]
            lines += [f"cyclegan_{name}{value}" for value in values]
        return "\n".join(lines) + "\n"


def _print_entry(scope: Scope, status: int, seconds: float, sent: int) -> None:
    client = scope.get("client")
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client[0] if client else None,
        "method": scope["method"],
        # Without the query, which may hold a secret.
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 4),
        "bytes": sent,
    }
    print(json.dumps(entry), flush=True)
