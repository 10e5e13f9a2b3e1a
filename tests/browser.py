"""The width of a page in a real browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_BROWSER = "no Chromium is installed"
FRAME = """<!doctype html><iframe id="page" width="{width}" height="800" style="border: 0" srcdoc="{page}"></iframe>
<script>
document.getElementById("page").addEventListener("load", (event) => {{
  const root = event.target.contentDocument.documentElement;
  document.title = `widths ${{root.clientWidth}} ${{root.scrollWidth}}`;
}});
</script>"""


def content_width(page: str, width: int, folder: Path) -> int:
    """The width in pixels that a page needs in a window; more than `width` if it scrolls horizontally.

    Args:
        page: HTML that loads nothing.
        width: width of the window.
        folder: folder for the browser's files.
    """
    assert CHROMIUM is not None
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    # Containers have no user namespaces for Chromium's own sandbox.
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"<title>widths (\d+) (\d+)</title>", dom)
    assert found, dom[-500:]
    assert int(found[1]) <= width
    return int(found[2])
