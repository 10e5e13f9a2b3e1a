"""The model card of a registered version, in Markdown: its description in MLflow, and its file `model_card.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from cyclegan.registry.measurements import Measured
from cyclegan.tracking.series import MAIN_METRICS

# Every database has room for a description of this length.
MAX_CHARACTERS = 5000
# A placeholder for the weights of all loss terms in the direction of the generator.
WEIGHTS = "train.loss_weights"
# The run's parameters that characterize the generator.
CARD_PARAMS = (
    "data.load_size", "train.crop_size", "model.generator", "model.base_filters", "model.blocks",
    "model.norm", "model.upsample", "model.residual_output", "train.epochs", "train.batch_size", "train.learning_rate",
    "train.update_order", "train.adversarial_loss", WEIGHTS, "train.ema_decay", "train.seed",
)  # fmt: skip
LINEAGE = ("git.commit", "git.dirty", "dvc.stage", "dvc.exp", "data.md5", "run_key", "model.sha256", "host", "versions")


@dataclass(frozen=True)
class ModelCard:
    """The contents of the card."""

    name: str
    version: str
    source: str
    target: str
    """The names of the domains."""
    direction: str
    dtype: str
    channels_in: int
    channels_out: int
    model_id: str
    measured: Measured
    reason: str
    """Why the version became champion, or stayed challenger."""
    run_id: str
    experiment_id: str
    params: Mapping[str, str]
    """Parameters of the training's run."""
    facts: Mapping[str, str]
    """Data, license and sizes, for the table of the training data."""
    tags: Mapping[str, str]
    """Lineage, and `search.…` if a search chose the hyperparameters."""
    store: str
    """The store's URI, without credentials."""
    has_grid: bool

    def description(self) -> str:
        """The card for MLflow's page, at most `MAX_CHARACTERS` long. Parts that do not fit are left out."""
        grid = {"artifact_file_path": "evaluation/grid.png"}
        # MLflow's address of the file, relative to its pages.
        address = f"ajax-api/2.0/mlflow/logged-models/{self.model_id}/artifacts/files?{urlencode(grid)}"
        text = ""
        for part in self._parts(address, [name for name in MAIN_METRICS if name in self.measured.metrics]):
            if len(text) + len(part) + 2 <= MAX_CHARACTERS:
                text += part + "\n\n"
        return text.rstrip()

    def file(self) -> str:
        """The card as a file, with all metrics."""
        parts = self._parts("evaluation/grid.png", list(self.measured.metrics))
        return "\n\n".join([f"# {self.name}, version {self.version}", *parts]) + "\n"

    def _parts(self, grid: str, metrics: list[str]) -> Iterator[str]:
        yield (
            f"Generator {self.source} → {self.target}: {self.dtype} images [N, H, W, {self.channels_in}]"
            f" to [N, H, W, {self.channels_out}] of the same size, any size."
        )
        yield f"At registration: {self.reason}."
        yield self._metrics(metrics)
        if self.has_grid:
            yield f"![Test images, their translations, and the translations back]({grid})"
        yield self._use()
        yield "**Training data**\n\n" + _table(("data", "value"), self.facts)
        yield self._limits()
        yield "**Lineage**\n\n" + _table(("lineage", "value"), self._lineage())
        yield "**Parameters**\n\n" + _table(("parameter", "value"), self._parameters())

    def _metrics(self, names: list[str]) -> str:
        rows = [
            f"| {name} | {_with_error(name, self.measured.metrics)} | {_with_error(name, self.measured.identity)} |"
            for name in names
            if not name.endswith("_se")
        ]
        return "\n".join(["| test split | this version | identity baseline |", "|---|---|---|", *rows])

    def _use(self) -> str:
        return "\n".join(
            [
                "```python",
                "import mlflow",
                "",
                f'mlflow.set_tracking_uri("{self.store}")',
                f'model = mlflow.pyfunc.load_model("models:/{self.name}/{self.version}")',
                f"translated = model.predict(images)  # {self.dtype} [N, H, W, {self.channels_in}]",
                "```",
                "",
                "```console",
                f"$ cyclegan translate models:/{self.name}/{self.version} IMAGE --output FOLDER",
                f"$ cyclegan serve models:/{self.name}/{self.version}",
                "```",
            ]
        )

    def _limits(self) -> str:
        size = self.facts.get("training size")
        return "\n".join(
            [
                "**Intended use and limits**",
                "",
                f"- For images like those of domain {self.source}"
                + (f", of about the training size ({size})." if size else "."),
                "- Other contents and sizes were not measured.",
                "- A translation is plausible, not true. Do not measure, diagnose or identify anything on it.",
                "- Metrics hold for the test split only. With few test images they are uncertain.",
                "- Biases of the training data return in the translations.",
            ]
        )

    def _lineage(self) -> dict[str, str]:
        run = f"[{self.run_id}](#/experiments/{self.experiment_id}/runs/{self.run_id})"
        known = {key: f"`{self.tags[key]}`" for key in LINEAGE if key in self.tags}
        searched = {key: f"`{value}`" for key, value in sorted(self.tags.items()) if key.startswith("search.")}
        test = {"test split md5": f"`{self.measured.protocol.get('md5')}`"}
        return {"run": run, **known, **test, **searched}

    def _parameters(self) -> dict[str, str]:
        weights = [key for key in self.params if re.fullmatch(rf"{WEIGHTS}\.\w+\.{self.direction}", key)]
        keys = [key for key in CARD_PARAMS for key in (weights if key == WEIGHTS else [key])]
        return {key: self.params[key] for key in keys if key in self.params}


def _table(heads: tuple[str, str], rows: Mapping[str, str]) -> str:
    return "\n".join([f"| {heads[0]} | {heads[1]} |", "|---|---|", *(f"| {key} | {rows[key]} |" for key in rows)])


def _with_error(name: str, metrics: Mapping[str, float]) -> str:
    if name not in metrics:
        return ""
    error = metrics.get(f"{name}_se")
    return f"{metrics[name]:.4g}" + ("" if error is None else f" ± {error:.2g}")
