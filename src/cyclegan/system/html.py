"""HTML pages that need nothing beside themselves."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(package: str, name: str, png: Callable[[Any], bytes] = bytes) -> Template:
    """A template of a package. What is put into it is escaped, and a name that is missing is an error.

    Args:
        png: turns what the template gives to its filter `data_url` into a PNG file's content.
    """
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = lambda image: f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return environment.get_template(name)
