"""A version's page in the registry, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from cyclegan.registry.measurements import Measured

# Every database has room for this length.
MAX_CHARACTERS = 5000
# A placeholder for the weights of all loss terms in the direction of the page.
WEIGHTS = "train.loss_weights"
# The run's parameters that characterize the generator.
PAGE_PARAMS = (
    "data.source", "data.load_size", "train.crop_size", "model.generator", "model.base_filters", "model.blocks",
    "model.norm", "model.upsample", "model.residual_output", "train.epochs", "train.batch_size", "train.learning_rate",
    "train.update_order", "train.adversarial_loss", WEIGHTS, "train.ema_decay", "train.seed",
)  # fmt: skip
LINEAGE = ("git.commit", "git.dirty", "dvc.stage", "dvc.exp", "data.md5", "run_key")


@dataclass(frozen=True)
class Page:
    """The contents of the page."""

    name: str
    version: str
    direction: str
    dtype: str
    channels_in: int
    channels_out: int
    model_id: str
    measured: Measured
    reason: str
    """Why the version became champion, or stayed challenger."""
    run_id: str
    params: Mapping[str, str]
    """Parameters of the training's run."""
    tags: Mapping[str, str]
    """Lineage, and `search.…` if a search chose the hyperparameters."""
    store: str
    """The store's URI, without credentials."""
    has_grid: bool

    def markdown(self) -> str:
        """The page, at most `MAX_CHARACTERS` long. The last parts, which the run's page has too, may be left out."""
        parts = [
            f"Generator {self.direction[0]} → {self.direction[-1]}: {self.dtype} images [N, H, W, {self.channels_in}]"
            f" to [N, H, W, {self.channels_out}] of the same size, any size.",
            f"At registration: {self.reason}.",
            *self._metrics(),
            *(
                [f"![Test images, their translations, and the translations back]({self._grid()})"]
                if self.has_grid
                else []
            ),
            self._use(),
            self._lineage(),
            self._parameters(),
        ]
        text = ""
        for part in parts:
            if len(text) + len(part) + 2 <= MAX_CHARACTERS:
                text += part + "\n\n"
        return text.rstrip()

    def _metrics(self) -> list[str]:
        metrics, unchanged = self.measured.metrics, self.measured.identity
        names = [name for name in metrics if not name.endswith("_se")]
        rows = [f"| {name} | {_with_error(name, metrics)} | {_with_error(name, unchanged)} |" for name in names]
        table = "\n".join(["| test split | this version | identity baseline |", "|---|---|---|", *rows])
        md5 = self.measured.protocol.get("md5")
        return [table, f"Test split: md5 `{md5}`; protocol {self.measured.protocol.get('version')}."]

    def _grid(self) -> str:
        # MLflow's address of the file, relative to the server.
        path = f"ajax-api/2.0/mlflow/logged-models/{self.model_id}/artifacts/files"
        return f"{path}?{urlencode({'artifact_file_path': 'evaluation/grid.png'})}"

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

    def _lineage(self) -> str:
        known = [f"{key} `{self.tags[key]}`" for key in LINEAGE if key in self.tags]
        searched = [f"{key} `{value}`" for key, value in sorted(self.tags.items()) if key.startswith("search.")]
        text = f"From run `{self.run_id}`" + "".join(f", {item}" for item in known) + "."
        if searched:
            text += " Hyperparameters from a search (best.yaml): " + ", ".join(searched) + "."
        return text

    def _parameters(self) -> str:
        weights = [key for key in self.params if re.fullmatch(rf"{WEIGHTS}\.\w+\.{self.direction}", key)]
        keys = [key for key in PAGE_PARAMS for key in (weights if key == WEIGHTS else [key])]
        rows = [f"| {key} | {self.params[key]} |" for key in keys if key in self.params]
        return "\n".join(["| parameter | value |", "|---|---|", *rows]) if rows else ""


def _with_error(name: str, metrics: Mapping[str, float]) -> str:
    if name not in metrics:
        return ""
    error = metrics.get(f"{name}_se")
    return f"{metrics[name]:.4g}" + ("" if error is None else f" ± {error:.2g}")
