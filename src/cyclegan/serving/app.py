"""The web application: `GET /` is the page, `POST /translate` takes an image file as body and returns a PNG file.

`GET /health` and `GET /metrics` are for the operator.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cyclegan.data.images.color_profile import describe_uses
from cyclegan.data.images.decode import FORMATS, BadImageError, decode, size
from cyclegan.inference.strips import translate as translate_images
from cyclegan.models.translator import Translator
from cyclegan.serving.batches import Batches
from cyclegan.serving.monitoring import Counters, Monitor
from cyclegan.system.errors import UserError, is_out_of_memory
from cyclegan.system.html import page_template

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits on requests, checked before any work.

    Attributes:
        bytes: largest size of a file.
        pixels: largest number of pixels of an image, and of several that go through the network together.
        images: largest number of unanswered images.
    """

    bytes: int
    pixels: int
    images: int = 32


@dataclass(frozen=True)
class About:
    """What the page shows about the model.

    Attributes:
        title: its name.
        source, target: names of the domains; empty if they are unknown.
        facts: further facts by their labels, such as `version`.
    """

    title: str
    source: str = ""
    target: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def application(
    translator: Translator,
    about: About,
    limits: Limits,
    hosts: Set[str] | None,
    proxies: Set[str] = frozenset(),
    access_log: bool = False,
) -> Starlette:
    """Build the application.

    Args:
        translator: a generator of images with 1, 3 or 4 channels.
        about: what the page shows about the model.
        limits: larger files and images get 413, too many images at once 503.
        hosts: allowed names in the header Host, without the port; None: any. This prevents DNS rebinding, in which
            another name resolves to this machine.
        proxies: names of reverse proxies. Their pages may send requests even if the proxy replaces the header Host.
        access_log: print one JSON object for each request.
    """
    template = page_template("cyclegan.serving", "page.html.j2")
    batches = Batches(lambda files: translated_pngs(translator, files, limits.pixels), limits.pixels)
    counters = Counters()

    async def page(_request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = template.render(about=about, nonce=nonce, megabytes=limits.bytes / 1e6, megapixels=limits.pixels / 1e6)
        return HTMLResponse(text, headers={"Content-Security-Policy": PAGE_POLICY.format(nonce=nonce)})

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def metrics(_request: Request) -> Response:
        text = counters.text(batches.waiting, batches.count, batches.images)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def translate(request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "forms are not supported; send the image file as body: curl --data-binary @FILE")
        with tempfile.NamedTemporaryFile(prefix="cyclegan-") as file:
            try:
                await _receive(request, file, limits.bytes)
            except ClientDisconnect:
                # The client has disconnected and cannot read the answer.
                return Response(status_code=400)
            size = await run_in_threadpool(checked_size, Path(file.name), limits.pixels)
            png = await batches.translate(Path(file.name), size)
        return Response(png, media_type="image/png")

    pages = {"/": page, "/health": health, "/metrics": metrics}
    routes = [Route(path, answer) for path, answer in pages.items()]
    routes.append(Route("/translate", translate, methods=["POST"]))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Monitor, paths=[*pages, "/translate"], most=limits.images, log=access_log, counters=counters),
            Middleware(Guard, hosts=hosts, proxies=proxies),
        ],
        exception_handlers={HTTPException: _error_text},  # type: ignore[dict-item]
    )


class Guard:
    """Refuse requests of other web pages through the user's browser, and add the headers that protect the page."""

    def __init__(self, app: ASGIApp, hosts: Set[str] | None, proxies: Set[str]) -> None:
        self._app = app
        self._hosts, self._proxies = hosts, proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        objection = self._objection(request)
        answer = self._app if objection is None else PlainTextResponse(objection + "\n", 403)
        await answer(scope, receive, guarded)

    def _objection(self, request: Request) -> str | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
            parts = None if origin is None else urlsplit(origin)
            is_from_proxy = parts is not None and parts.hostname in self._proxies
        except ValueError:
            return "the header Host or Origin holds no valid address"
        if self._hosts is not None and name not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return f"Host {name}: not allowed, only {names}; start the server with --allowed-hosts for another name"
        # Browsers send `null` for pages without an origin. The page of this server has one.
        if parts is not None and parts.netloc != host and not is_from_proxy:
            return "requests from other web pages are refused"
        if request.method != "GET" and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "requests from other web pages are refused"
        return None


def translated_pngs(translator: Translator, files: Sequence[Path], max_pixels: int) -> list[bytes | Exception]:
    """Translate image files to PNG files of the same sizes and of the translator's bit depth.

    Images of one size go through the network together. If that fails, each goes alone.

    Returns:
        A PNG file or an exception for each file; an `HTTPException` with 413 for too many pixels, 415 for a file that
        is not a usable image, 422 for an image that the model cannot translate.
    """
    results: list[bytes | Exception] = [b""] * len(files)
    by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for number, file in enumerate(files):
        try:
            pixels = _decoded(translator, file, max_pixels)
        # One file's fault must not fail the others.
        except Exception as error:
            results[number] = error
        else:
            # The tag of its orientation can exchange an image's sides.
            by_size.setdefault(pixels.shape, []).append((number, pixels))
    for group in by_size.values():
        together = _translated(translator, np.stack([pixels for _, pixels in group]))
        if isinstance(together, HTTPException) and len(group) > 1:
            answers = [_translated(translator, pixels[None]) for _, pixels in group]
        else:
            answers = [together] if isinstance(together, HTTPException) else list(together[:, None])
        for (number, _), answer in zip(group, answers, strict=True):
            if isinstance(answer, HTTPException):
                results[number] = answer
            else:
                # Use TensorFlow's encoder, because Pillow has no 16-bit color.
                results[number] = bytes(tf.io.encode_png(answer[0]).numpy())
    return results


def checked_size(file: Path, max_pixels: int) -> tuple[int, int]:
    """The (width, height) in an image file's header.

    Raises:
        HTTPException: 400 for an empty file, 413 for too many pixels, 415 for a file that is not an image.
    """
    if file.stat().st_size == 0:
        raise HTTPException(400, "the body is empty; send an image file")
    try:
        # Read only the header: decoding a too large image would take the memory that the limit protects.
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise HTTPException(
            413, f"more pixels than the {max_pixels / 1e6:g} million allowed; make the image smaller"
        ) from None
    except Exception:
        # Pillow cannot read some TIFF files that tifffile reads.
        width, height = size(file)
    if not width:
        raise HTTPException(415, "this file is not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or it is corrupt")
    _check_size(width, height, max_pixels)
    return width, height


def _decoded(translator: Translator, file: Path, max_pixels: int) -> np.ndarray:
    """The pixels [H, W, C] of a file.

    Raises:
        HTTPException: 413 for too many pixels, 415 for a file that is not a usable image.
    """
    try:
        decoded = decode(file, translator.channels, translator.bit_depth)
    except BadImageError as error:
        raise HTTPException(415, f"this image {error}") from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise HTTPException(413, "out of memory while decoding; make the image smaller") from None
    # Check again: tifffile may read another size from the header than Pillow.
    _check_size(decoded.pixels.shape[1], decoded.pixels.shape[0], max_pixels)
    for phrase in describe_uses(Counter([decoded.profile_use])):
        logger.info("%s", phrase)
    return decoded.pixels


def _translated(translator: Translator, images: np.ndarray) -> np.ndarray | HTTPException:
    """The translations [N, H, W, C_out] of images [N, H, W, C], or why there are none."""
    try:
        return translate_images(translator, images)
    except UserError as error:
        return HTTPException(422, str(error))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        height, width = images.shape[1:3]
        return HTTPException(413, f"out of memory for {width}×{height} pixels; make the image smaller")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise HTTPException(
            413, f"{width}×{height} pixels are more than the {max_pixels / 1e6:g} million allowed; make it smaller"
        )


async def _receive(request: Request, file: IO[bytes], limit: int) -> None:
    """Write the body to a file. Refuse a body above the limit, by its header or by its real size."""
    length = request.headers.get("content-length", "0")
    refusal = HTTPException(413, f"the file is larger than the {limit / 1e6:g} MB allowed; send a smaller one")
    if length.isdecimal() and int(length) > limit:
        raise refusal
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise refusal
        file.write(part)
    file.flush()


async def _error_text(_request: Request, error: HTTPException) -> Response:
    return PlainTextResponse(error.detail + "\n", error.status_code, headers=error.headers)
