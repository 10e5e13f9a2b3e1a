"""Registration of a generator that another program trained: a version with an origin, without run and metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModelStatus

from cyclegan.registry.champion import registry_lock
from cyclegan.registry.served_form import content_digest, save_served
from cyclegan.registry.versions import CONTENT_TAG, LINEAGE_TAGS, WEIGHTS_TAG, create_model
from cyclegan.system.digests import file_digest
from cyclegan.tracking.store import Store, search_all

ORIGIN_TAG = "origin.sha256"
# Files of other programs record no bit depth. All published generators use 8 bits.
BIT_DEPTH = 8


@dataclass(frozen=True)
class Origin:
    """The source file of an imported generator."""

    file: str
    """The file name, without folders."""
    sha256: str
    program: str
    """The program that wrote the file."""


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

    The gate cannot make it champion or replace it, because both need test metrics.

    Args:
        experiment: the experiment of the generator; created if missing.
        generator: the `.keras` file.
        channels: those of the input and the output images.
        tags: tags that describe the importing process.

    Returns:
        The version, and whether it existed before. A file is registered only once.
    """
    with registry_lock(store):
        create_model(store, name, {})
        for known in search_all(store.client.search_model_versions, f"name = '{name}'"):
            if known.tags.get(ORIGIN_TAG) == origin.sha256:
                return str(known.version), True
        model_id, details = _store(store, experiment, generator, channels)
        details |= {
            **{key: tags[key] for key in LINEAGE_TAGS if key in tags},
            "gate.reason": f"imported from {origin.file}: no test metrics",
            "origin.file": origin.file,
            ORIGIN_TAG: origin.sha256,
            "origin.program": origin.program,
        }
        created = store.client.create_model_version(
            name, f"models:/{model_id}", tags=details, description=_page(name, channels, origin), model_id=model_id
        )
        return str(created.version), False


def _store(store: Store, experiment: str, generator: Path, channels: tuple[int, int]) -> tuple[str, dict[str, str]]:
    """Store the served model in MLflow; return its id and checksums."""
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
            "This project neither trained nor measured it, so there are no test metrics.",
            f"```console\n$ cyclegan translate models:/{name}/VERSION IMAGE --output FOLDER\n```",
        ]
    )
