"""The base class and the common types of the sections of `params.yaml`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=1, le=16)]
Norm = Literal["instance", "instance_contrib", "batch", "none"]
Upsample = Literal["transpose", "resize", "antialias"]
AdversarialLoss = Literal["least_squares", "vanilla", "hinge", "wasserstein"]
Size = tuple[int, int]


class Section(BaseModel):
    """A frozen group of parameters, without unknown keys and without silent conversion (`"3"` is not 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def unread(self, section: str, keys: Iterable[str], because: str) -> list[str]:
        """Warn of keys that are not read but differ from their defaults: one line for each.

        Args:
            section: name of this section.
            keys: keys that are not read.
            because: the key and value that make them unread.
        """
        defaults = {key: type(self).model_fields[key].get_default() for key in keys}
        return [
            f"{section}.{key} = {getattr(self, key)}: has no effect with {because}; its default is {default}"
            for key, default in defaults.items()
            if getattr(self, key) not in (default, None)
        ]


def impossible(message: str) -> PydanticCustomError:
    """The error for a value, or a combination of keys, that cannot work.

    Args:
        message: what is wrong and the remedy. The check of a top-level section starts it with the key; every other
            check leaves the key out, because `loading` writes it.
    """
    return PydanticCustomError("impossible", "{message}", {"message": message})


def refuse_unexpanded(path: str) -> None:
    """Refuse a URI, ~ and variables in a path that dvc.yaml names: DVC takes the path as it is written."""
    expanded = os.path.expandvars(os.path.expanduser(path))
    if path.startswith("file:"):
        raise impossible(f"must be a path, not a URI; write {unquote(urlsplit(path).path)}")
    if expanded != path:
        raise impossible(f"DVC expands neither ~ nor variables; write {expanded}")


def parse_size(value: Any, word: str) -> Any:
    """Read `64` or `[height, width]` in pixels as `(height, width)`; keep `word` as it is."""
    if value == word:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int for side in value):
        if min(value) < 1 or max(value) > 8192:
            raise impossible("must be between 1 and 8192 pixels on each side")
        return tuple(value)
    raise impossible(f"must be a number of pixels, [height, width] or {word!r}")


def plain(value: Any) -> Any:
    """A value in its shortest form: `64` for `(64, 64)`, `5.0` for `{AtoB: 5.0, BtoA: 5.0}`."""
    if isinstance(value, Section):
        tree = {name: plain(getattr(value, name)) for name in type(value).model_fields}
        return tree["AtoB"] if set(tree) == {"AtoB", "BtoA"} and tree["AtoB"] == tree["BtoA"] else tree
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return [plain(item) for item in value] if isinstance(value, list) else value
