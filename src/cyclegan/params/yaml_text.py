"""Parameters as YAML with the descriptions as comments, and the page docs/parameters.md.

The YAML has the layout of DVC's own dump: `dvc exp run -S` changes one line for one value.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from cyclegan.params.section import Section, plain

WIDTH = 100


def yaml_text(params: Section, header: str) -> str:
    """All parameters with their descriptions as comments.

    Args:
        params: the values.
        header: comment lines at the top, with or without `# `.
    """
    lines = [f"# {line}".rstrip() for line in uncommented(header).splitlines()]
    for name in type(params).model_fields:
        section = getattr(params, name)
        lines += ["", f"{name}: # {first_line(section)}", *_keys(section, "  ")]
    return "\n".join(lines) + "\n"


def uncommented(text: str) -> str:
    """Comment lines without their `# `."""
    return "\n".join(re.sub(r"^# ?", "", line) for line in text.splitlines())


def header_of(text: str) -> str:
    """The comment lines at the top of a YAML file, without their `# `."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return uncommented("\n".join(lines))


def first_line(section: Section) -> str:
    """The purpose of a section, without a full stop."""
    return (type(section).__doc__ or "").splitlines()[0].rstrip(".")


def _keys(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        yield from textwrap.wrap(
            _described(field), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        if isinstance(value, Section) and _is_described(value):
            yield f"{indent}{name}:"
            yield from _keys(value, f"{indent}  ")
        else:
            yield from (indent + line for line in _dumped({name: plain(value)}).splitlines())


def _described(field: FieldInfo) -> str:
    return field.description or ""


def _is_described(section: Section) -> bool:
    """Whether its keys have descriptions, hence their own lines."""
    return all(field.description for field in type(section).model_fields.values())


def _dumped(tree: dict[str, Any]) -> str:
    def flow(value: Any) -> Any:
        if isinstance(value, dict):
            mapping = CommentedMap({key: flow(item) for key, item in value.items()})
            mapping.fa.set_flow_style()
            return mapping
        return value

    yaml, stream = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump({name: flow(value) for name, value in tree.items()}, stream)
    return stream.getvalue()


def parameters_page(params: Section) -> str:
    """The page that lists every parameter with its default and its description, in Markdown.

    Args:
        params: the defaults.
    """
    lines = [
        "# Parameters",
        "",
        "`params.yaml` holds these keys. `cyclegan params` checks the file and prints every value. A missing",
        "key takes its default. `cyclegan params --write` adds missing keys and regenerates this page.",
    ]
    for name in type(params).model_fields:
        section = getattr(params, name)
        lines += ["", f"## `{name}`", "", f"{first_line(section)}.", "", *_entries(section, name)]
    return "\n".join(lines) + "\n"


def _entries(section: Section, path: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{path}.{name}"
        has_keys = isinstance(value, Section) and _is_described(value)
        default = "" if has_keys else f" = `{_value_text(value)}`"
        yield from textwrap.wrap(
            f"**`{key}`**{default}: {_described(field)}", WIDTH, initial_indent="- ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        if isinstance(value, Section) and has_keys:
            yield from _entries(value, key)


def _value_text(value: Any) -> str:
    return _dumped({"x": plain(value)}).strip().removeprefix("x:").strip() or "null"
