"""The description of a training's MLflow run, in Markdown: sample images, main metrics, how to load, links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np

from cyclegan.domains import DIRECTIONS
from cyclegan.experiment.trained_run import TrainedRun
from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.tracking.delivery import RUN_ID
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.series import MAIN_METRICS


class DescribedRun:
    """A training listener that logs to a run, and describes the run by its latest sample images and metrics."""

    def __init__(self, tracked: TrackedRun, params: Params, total_steps: int) -> None:
        self._tracked, self._params, self._total_steps = tracked, params, total_steps
        self._metrics: Mapping[str, float] = {}
        self._images: dict[str, str] = {}

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracked.log_metrics(step, metrics)
        if any(name.startswith("val_") for name in metrics):
            self._metrics = metrics

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._images[key] = self._tracked.log_image(step, key, image)
        if len(self._images) == len(DIRECTIONS):
            progress = f"Training, step {step} of {self._total_steps}"
            self._tracked.describe(training_page(self._params, progress, list(self._images.values()), self._metrics))
            self._images.clear()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._tracked.set_tags(tags)


def training_page(params: Params, progress: str, images: Sequence[str], metrics: Mapping[str, float]) -> str:
    """The description after an evaluation on the validation split.

    Args:
        progress: how far the training is.
        images: paths of the latest sample grids among the run's artifacts.
        metrics: the latest validation metrics, such as `val_AtoB/kid`.
    """
    names = params.data.domain_names
    values = {direction: _without_prefix(metrics, f"val_{direction}/") for direction in DIRECTIONS}
    return "\n\n".join(
        [
            " ".join(_image(path) for path in images),
            f"{progress}: {_summary(params)}.",
            _table("validation split", [(names.arrow(direction), values[direction]) for direction in DIRECTIONS]),
        ]
    )


def result_page(
    params: Params, trained: TrainedRun, metrics: Mapping[str, Any], registered: Mapping[str, str] | None = None
) -> str:
    """The description after stage `evaluate`, and after `register`.

    Args:
        metrics: of stage `evaluate`, by direction.
        registered: the URI of each registered version, with its verdict in Markdown.
    """
    names, columns = params.data.domain_names, []
    for direction in DIRECTIONS:
        columns.append((names.arrow(direction), metrics[direction]))
        columns.append(("identity baseline", metrics[direction].get("identity", {})))
    models = registered or [f"models/generator_{direction}.keras" for direction in DIRECTIONS]
    commands = [f"$ cyclegan translate {model} IMAGE --output FOLDER" for model in models]
    files = ("evaluate/report.html", "evaluate/details.json", "evaluate/per_image.csv", "params.yaml")
    links = ", ".join(f"[{file}]({artifact_address(file)})" for file in files)
    return "\n\n".join(
        [
            # MLflow shows the first lines. The rest is behind "Show more".
            _image("grid.png"),
            f"{_summary(params)}, {trained.epochs} epochs. Kept: the generators of epoch {trained.kept['epoch']:.3g}.",
            _table("test split", columns),
            *(registered or {}).values(),
            "\n".join(["```console", *commands, "```"]),
            f"Files: {links}.",
            "Samples during the training:",
            _image("over_time.png"),
        ]
    )


def log_result(tracked: TrackedRun, project: Project, page: str) -> None:
    """Describe a run by `result_page`, and log the images in it: a run that replaces a lost one has none."""
    for image in (project.reports / "evaluate" / "grid.png", project.reports / "train" / "over_time.png"):
        if image.is_file():
            tracked.log_artifact(image)
    tracked.describe(page)


def artifact_address(path: str) -> str:
    """The address of one of the run's artifacts, relative to MLflow's pages."""
    return f"get-artifact?{urlencode({'path': path})}&run_uuid={RUN_ID}"


def _image(path: str) -> str:
    return f"![{path}]({artifact_address(path)})"


def _summary(params: Params) -> str:
    size = params.training_size
    pixels = "" if size is None else f", {size[0]} × {size[1]} pixels"
    return f"{params.data.dataset}, {params.model.generator}{pixels}"


def _table(title: str, columns: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A table of the main metrics that at least one column has.

    Args:
        columns: heading and metrics of each.
    """
    rows = [[title, *(heading for heading, _ in columns)]]
    for name in MAIN_METRICS:
        if any(name in values for _, values in columns):
            rows.append([name, *(f"{values[name]:.4g}" if name in values else "–" for _, values in columns)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _without_prefix(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
