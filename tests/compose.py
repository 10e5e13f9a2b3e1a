"""`compose.yaml` as Docker reads it: with its variables replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """All services, with these variables.

    Raises:
        KeyError: a variable that must be set is missing or empty.
    """

    def value(found: re.Match[str]) -> str:
        name, kind, default = found[1], found[2], found[3]
        given = variables.get(name, "")
        if kind == ":?" and not given:
            raise KeyError(name)
        return given or (default or "")

    text = re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, (ROOT / "compose.yaml").read_text())
    return dict(YAML(typ="safe").load(text)["services"])
