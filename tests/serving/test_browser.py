"""The page of `cyclegan serve` in a real browser: drop an image, see it translated."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from running import Served

from browser import CHROMIUM, NO_BROWSER, content_width
from cyclegan.models.translator import Translator, load_generator

pytestmark = pytest.mark.slow

DROP = """([target, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  const send = (kind) =>
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  const taken = ["dragenter", "dragover", "drop"].map((kind) => !send(kind));
  return taken[1] && taken[2];
}"""
PIXELS = """(image) => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
}"""


def png(width: int, height: int) -> tuple[bytes, np.ndarray]:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), pixels


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_a_dropped_image_is_translated(served: Served) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="install the extra 'browser'")
    with playwright.sync_playwright() as tool:
        # Containers have no user namespaces for Chromium's own sandbox.
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page()
        troubles: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        address = f"http://127.0.0.1:{served.port}/"
        page.goto(address)
        assert page.title() == served.model.name
        drop, after = page.locator("#drop"), page.locator("#images .after")

        data, pixels = png(40, 24)
        taken = page.evaluate(DROP, [drop.element_handle(), "photo.png", base64.b64encode(data).decode()])
        assert taken
        after.wait_for(state="visible")
        after.evaluate("image => image.decode()")
        shown = np.array(after.evaluate(PIXELS)).reshape(24, 40, 4)[..., :3]
        expected = Translator(load_generator(served.model)).translate(pixels[None])[0]
        assert np.abs(shown - expected.astype(int)).max() <= 1
        assert troubles == []

        # The slider works by the keyboard, and the translation can be downloaded.
        slider = page.get_by_role("slider")
        slider.press("Home")
        assert (
            page.locator("#images .before")
            .evaluate("image => getComputedStyle(image).clipPath")
            .startswith("inset(0px 100%")
        )
        with page.expect_download() as download:
            page.locator("#images .save").click()
        assert download.value.suggested_filename == "photo-translated.png"

        # The file dialog takes several files. The page shows the error and keeps the images.
        page.locator("#file").set_input_files(
            [
                {"name": "<i>notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
                {"name": "second.png", "mimeType": "image/png", "buffer": data},
            ]
        )
        page.get_by_text("not a JPEG").wait_for()
        assert page.locator("#status").inner_text().startswith("<i>notes.txt: ")
        assert page.locator("#images .name").all_inner_texts() == ["second.png", "photo.png"]
        assert {url for url in asked if not url.startswith(("blob:", "data:"))} == {address, f"{address}translate"}
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_the_page_fits_a_phone(served: Served, tmp_path: Path) -> None:
    with urlopen(f"http://127.0.0.1:{served.port}/") as answer:
        page = answer.read().decode()
    assert content_width(re.sub("</?template[^>]*>", "", page), 390, tmp_path) <= 390
