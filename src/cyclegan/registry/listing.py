"""The contents of the registry, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from cyclegan.registry.champion import all_models, find_alias, find_model, find_version, moves
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store


def resolve(store: Store, reference: str) -> ModelVersion:
    """Find the version that `MODEL@alias` or `MODEL/version` names, with or without `models:/` before it.

    Raises:
        UserError: the reference names none; the message lists the existing ones.
    """
    text = reference.removeprefix("models:/")
    if "@" in text:
        return find_alias(store, *text.rsplit("@", 1))
    if "/" in text:
        return find_version(store, *text.rsplit("/", 1))
    raise UserError(f"{reference}: no version is named; write {text}@champion or {text}/1")


def format_models(store: Store) -> str:
    """A table of all models, with their champion, challenger and the champion's gate metric."""
    rows = []
    for name in all_models(store):
        aliases = store.client.get_registered_model(name).aliases
        champion = aliases.get("champion")
        tags = {} if champion is None else store.client.get_model_version(name, str(champion)).tags
        metric = tags.get("gate.metric")
        rows.append(
            {
                "model": name,
                "versions": len(store.client.search_model_versions(f"name = '{name}'")),
                "champion": champion or "–",
                "challenger": aliases.get("challenger", "–"),
                "champion's metric": "–" if metric is None else f"{metric} {float(tags[f'metric.{metric}']):.4g}",
                "champion since": tags.get("champion.since", "–"),
            }
        )
    return _table(rows) if rows else f"{store.display_uri}: no registered models; 'dvc repro' registers the first"


def format_details(store: Store, reference: str) -> str:
    """One version in full (`MODEL@alias`, `MODEL/version`), or all versions of a model and its moves."""
    text = reference.removeprefix("models:/")
    if "@" in text or "/" in text:
        return _version(store, resolve(store, text))
    find_model(store, text)
    found = store.client.search_model_versions(f"name = '{text}'")
    rows = []
    for version in sorted(found, key=lambda version: int(version.version)):
        # Get the version by itself: a search of a database returns no aliases.
        full = store.client.get_model_version(text, str(version.version))
        metric = full.tags.get("gate.metric")
        rows.append(
            {
                "version": full.version,
                "aliases": ", ".join(sorted(full.aliases)) or "–",
                "metric": "–" if metric is None else f"{metric} {float(full.tags[f'metric.{metric}']):.4g}",
                "run": (full.run_id or "–")[:8],
                "commit": full.tags.get("git.commit", "–")[:8],
                "registered": _when(full.creation_timestamp),
                "why": full.tags.get("gate.reason", "–"),
            }
        )
    parts = [_table(rows) if rows else f"{text} has no versions"]
    history = [
        f"{made.at}  {made.before or 'none'} -> {made.version}  by {made.by}: {made.reason}"
        for made in moves(store, text)
    ]
    if history:
        parts.append("champion:\n" + "\n".join(history))
    return "\n\n".join(parts)


def _version(store: Store, version: ModelVersion) -> str:
    head = f"{version.name} version {version.version}, registered {_when(version.creation_timestamp)}"
    aliases = f"aliases: {', '.join(sorted(version.aliases)) or 'none'}"
    tags = "\n".join(f"{key} = {value}" for key, value in sorted(version.tags.items()))
    return "\n\n".join([f"{head}\n{aliases}", version.description or "", tags]).rstrip()


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
