"""The web application: `GET /` is the page, `POST /translate` takes an image file as body and returns a PNG file."""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

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


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits on a request, checked before any work.

    Attributes:
        bytes: largest size of a file.
        pixels: largest number of pixels of an image.
    """

    bytes: int
    pixels: int


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
    translator: Translator, about: About, limits: Limits, hosts: Set[str] | None, proxies: Set[str] = frozenset()
) -> Starlette:
    """Build the application.

    Args:
        translator: a generator of images with 1, 3 or 4 channels.
        about: what the page shows about the model.
        limits: larger files and images get 413.
        hosts: allowed names in the header Host, without the port; None: any. This prevents DNS rebinding, in which
            another name resolves to this machine.
        proxies: names of reverse proxies. Their pages may send requests even if the proxy replaces the header Host.
    """
    template = page_template("cyclegan.serving", "page.html.j2")
    # One image at a time: two would share the processor and need twice the memory.
    turn = asyncio.Lock()

    async def page(_request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = template.render(about=about, nonce=nonce, megabytes=limits.bytes / 1e6, megapixels=limits.pixels / 1e6)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def translate(request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "forms are not supported; send the image file as body: curl --data-binary @FILE")
        with tempfile.NamedTemporaryFile(prefix="cyclegan-") as file:
            try:
                await _receive(request, file, limits.bytes)
            except ClientDisconnect:
                # The client has disconnected and cannot read the answer.
                return Response(status_code=400)
            async with turn:
                png = await run_in_threadpool(translated_png, translator, Path(file.name), limits.pixels)
        return Response(png, media_type="image/png")

    return Starlette(
        routes=[Route("/", page), Route("/health", health), Route("/translate", translate, methods=["POST"])],
        middleware=[Middleware(Guard, hosts=hosts, proxies=proxies)],
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


def translated_png(translator: Translator, file: Path, max_pixels: int) -> bytes:
    """Translate one image file to a PNG file of the same size and of the translator's bit depth.

    Raises:
        HTTPException: 400 for an empty file, 413 for too many pixels, 415 for a file that is not a usable image,
            422 for an image that the model cannot translate.
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
    try:
        decoded = decode(file, translator.channels, translator.bit_depth)
        # Check again: tifffile may read another size from the header than Pillow.
        _check_size(decoded.pixels.shape[1], decoded.pixels.shape[0], max_pixels)
        translated = translate_images(translator, decoded.pixels[None])[0]
    except BadImageError as error:
        raise HTTPException(415, f"this image {error}") from None
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise HTTPException(413, f"out of memory for {width}×{height} pixels; make the image smaller") from None
    for phrase in describe_uses(Counter([decoded.profile_use])):
        logger.info("%s", phrase)
    # Use TensorFlow's encoder, because Pillow has no 16-bit color.
    return bytes(tf.io.encode_png(translated).numpy())


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
