"""Register a generator that another program trained: its version has an origin, but no run and no test metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModelStatus

from cyclegan.registry.champion import changing
from cyclegan.registry.served_form import content_digest, save_served
from cyclegan.registry.versions import CONTENT_TAG, WEIGHTS_TAG, create_model
from cyclegan.system.digests import file_digest
from cyclegan.tracking.store import Store, all_found

ORIGIN_TAG = "origin.sha256"
# Files of other programs do not record a bit depth; all published generators are for 8 bits.
BIT_DEPTH = 8


@dataclass(frozen=True)
class Origin:
    """The file that a generator was imported from."""

    file: str
    """Its name, without folders."""
    sha256: str
    program: str
    """What wrote it."""


def register_imported(
    store: Store,
    experiment: str,
    name: str,
    generator: Path,
    channels: tuple[int, int],
    origin: Origin,
    tags: Mapping[str, str],
) -> tuple[str, bool]:
    """Make a generator a version of the registered model `name`, without an alias.

    The gate never makes it champion, nor replaces it as champion: both take test metrics.

    Args:
        experiment: that the generator appears in; created where it does not exist.
        generator: its `.keras` file.
        channels: of the images in and out.
        tags: about the process that imports it.

    Returns:
        The version, and whether it was there already: a file is registered once.
    """
    with changing(store):
        create_model(store, name, {})
        for known in all_found(store.client.search_model_versions, f"name = '{name}'"):
            if known.tags.get(ORIGIN_TAG) == origin.sha256:
                return str(known.version), True
        model_id, details = _store(store, experiment, generator, channels)
        details |= {
            **tags,
            "bit_depth": str(BIT_DEPTH),
            "gate.reason": f"imported from {origin.file}: no test metrics",
            "origin.file": origin.file,
            ORIGIN_TAG: origin.sha256,
            "origin.program": origin.program,
        }
        made = store.client.create_model_version(
            name, f"models:/{model_id}", tags=details, description=_page(name, channels, origin), model_id=model_id
        )
        return str(made.version), False


def _store(store: Store, experiment: str, generator: Path, channels: tuple[int, int]) -> tuple[str, dict[str, str]]:
    """Store the served form in MLflow; returns its id and its checksums."""
    weights = file_digest(generator)
    checksums = {WEIGHTS_TAG: weights, CONTENT_TAG: content_digest(weights, BIT_DEPTH)}
    model = store.client.create_logged_model(
        store.experiment(experiment),
        name="G_imported",
        tags=checksums,
        params={"bit_depth": str(BIT_DEPTH)},
        model_type="generator",
    )
    with tempfile.TemporaryDirectory() as folder:
        save_served(Path(folder) / "model", model, generator, channels, BIT_DEPTH)
        store.client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
    store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id, checksums


def _page(name: str, channels: tuple[int, int], origin: Origin) -> str:
    shapes = f"uint8 images [N, H, W, {channels[0]}] to [N, H, W, {channels[1]}] of the same size"
    return "\n\n".join(
        [
            f"Generator imported from `{origin.file}`, a file of {origin.program}: {shapes}.",
            f"SHA-256 of the file: `{origin.sha256}`.",
            "This project did not train or measure it: there are no test metrics.",
            f"```console\n$ cyclegan translate models:/{name}/VERSION IMAGE --output FOLDER\n```",
        ]
    )
