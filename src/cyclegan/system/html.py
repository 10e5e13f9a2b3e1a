"""Self-contained HTML pages."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def page_template(package: str, name: str, png: Callable[[Any], bytes] = bytes) -> Template:
    """A template of a package. Values are escaped; a missing name is an error.

    Every template may include `style.css`, the common style of all pages.

    Args:
        png: converts the input of the filter `data_url` to the content of a PNG file.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("cyclegan.system", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = lambda image: f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return environment.get_template(name)
