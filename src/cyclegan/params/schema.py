"""The smaller sections, and `Params`: all of `params.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cyclegan.params.data import Data
from cyclegan.params.derived import training_size
from cyclegan.params.model import Model
from cyclegan.params.search import Search
from cyclegan.params.section import (
    Count,
    Section,
    Size,
    impossible,
    refuse_unexpanded,
)
from cyclegan.params.train import Train

FEATURES = "data/features/efficientnet-lite0.npz"
"""The feature network that comes with the project."""
SHAPE_NOTHING = ("checkpoint_every", "devices", "initialize_from", "keep_checkpoints", "sample_images")
"""Keys of section `train` that change no weight, hence no value of a trial; of `initialize_from` the content does."""


class Evaluate(Section):
    """Stage evaluate."""

    batch_size: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Images in one call of a generator; changes memory, not results.",
    )
    features: str = Field(
        default=FEATURES,
        description="Feature network for KID and the like: the included file, FILE.h5 (Keras' Inception-v3, notop), or "
        "FILE.keras (any model from [N, S, S, 3] in -1…1 to [N, D]).",
    )
    features_size: int = Field(
        default=128,
        ge=32,
        le=1024,
        description="Input side of that network in pixels; smaller is faster.",
    )
    grid_images: int = Field(default=8, ge=1, le=64, description="Test images in the grid of each direction.")
    classifier_steps: Count = Field(default=2000, description="Training steps of each classifier, with data.labels.")

    @field_validator("features")
    @classmethod
    def _network(cls, value: str) -> str:
        refuse_unexpanded(value)
        if value != FEATURES and not re.fullmatch(r".+\.(h5|keras)", value):
            raise impossible(
                f"must be {FEATURES}, an .h5 file (Keras' ImageNet weights of Inception-v3) or a .keras file"
            )
        return value


class Gates(Section):
    """The metric that decides in each direction."""

    AtoB: Annotated[str, Field(min_length=1)]
    BtoA: Annotated[str, Field(min_length=1)]


class Registry(Section):
    """Stage register."""

    gate: Gates = Field(
        default=Gates(AtoB="auto", BtoA="auto"),
        description="Test metric that a new champion must improve by more than its standard error: auto (pair_psnr, or "
        "kid without true pairs), a metric of reports/evaluate/details.json, or {AtoB: …, BtoA: …}.",
    )
    export: list[Literal["onnx"]] = Field(
        default=[],
        description="Additional formats of a model version: onnx (for mlflow.onnx.load_model without TensorFlow; "
        "install 'cyclegan[export]').",
    )

    @field_validator("gate", mode="before")
    @classmethod
    def _same_both_ways(cls, value: Any) -> Any:
        # The data decides which metrics exist. Stage `register` refuses all others.
        if isinstance(value, str):
            return {"AtoB": value, "BtoA": value}
        if not isinstance(value, dict):
            raise impossible("must be auto, the name of a test metric such as pair_psnr, or {AtoB: name, BtoA: name}")
        return value


class Tracking(Section):
    """Where MLflow keeps the runs."""

    uri: str | None = Field(
        default=None, description="Tracking URI. null: $MLFLOW_TRACKING_URI if set, else mlruns/mlflow.db."
    )
    experiment: str | None = Field(default=None, description="Name of the experiment. null: the name of the data set.")
    offline: bool = Field(
        default=False, description="Record in mlruns/waiting only; cyclegan sync or the next training delivers it."
    )


class Params(Section):
    """All of `params.yaml`."""

    data: Data = Data()
    model: Model = Model()
    search: Search = Search()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    registry: Registry = Registry()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data.channels_A != self.data.channels_B:
            weights = self.train.loss_weights
            for term in weights.COMPARING:
                if getattr(weights, term).AtoB > 0 or getattr(weights, term).BtoA > 0:
                    raise impossible(
                        f"train.loss_weights.{term}: needs equal channels, but data.channels_A = "
                        f"{self.data.channels_A} and data.channels_B = {self.data.channels_B}; set it to 0"
                    )
            if self.model.residual_output:
                raise impossible(
                    f"model.residual_output: true needs equal channels, but data.channels_A = {self.data.channels_A} "
                    f"and data.channels_B = {self.data.channels_B}; set it to false"
                )
        if self.train.gradient_checkpointing and (
            self.model.generator != "resnet"
            or self.model.blocks == 0
            or self.model.norm == "batch"
            or self.model.dropout > 0
        ):
            raise impossible(
                "train.gradient_checkpointing: true needs model.generator: resnet, model.blocks above 0, "
                "model.dropout: 0 and a model.norm other than batch; set it to false"
            )
        searched = [f"search.{part}.{key}" for part, key in self._searched_sizes()]
        if searched and any(self.train.initialize_from.model_dump().values()):
            raise impossible(
                f"{searched[0]}: changes networks whose weights train.initialize_from gives; set one of them to null"
            )
        if self.train.devices != "auto" and self.train.devices > 1 and self.model.dropout > 0:
            raise impossible(
                f"train.devices = {self.train.devices}: does not support model.dropout = {self.model.dropout}; set "
                "train.devices to 1, or model.dropout to 0"
            )
        crop, load = self.train.crop_size, self.data.load_size
        if crop != "whole" and load != "original" and (crop[0] > load[0] or crop[1] > load[1]):
            raise impossible(f"train.crop_size = {list(crop)}: larger than data.load_size = {list(load)}; lower it")
        if self.training_size is not None:
            reason = self.model.objection_to(self.training_size)
            if reason is not None:
                name = "data.load_size" if crop == "whole" else "train.crop_size"
                raise impossible(f"{name} = {list(self.training_size)}{reason}")
        return self

    def _searched_sizes(self) -> Iterator[tuple[str, str]]:
        """The keys of section `search` that change the networks in some trials."""
        for part in ("space", "fidelity"):
            for key in ("blocks", "base_filters", "norm", "upsample", "discriminator_filters"):
                if getattr(getattr(self.search, part), key, None) is not None:
                    yield part, key

    @property
    def without_effect(self) -> list[str]:
        """Warnings of keys that are set but not read, one line for each."""
        return [*self.data.without_effect, *self.model.without_effect, *self.train.without_effect]

    @property
    def shaping(self) -> dict[str, Any]:
        """The parameters that trained weights depend on, without those that shape the data."""
        return {"model": self.model.model_dump(), "train": self.train.model_dump(exclude=set(SHAPE_NOTHING))}

    @property
    def training_size(self) -> Size | None:
        """`(height, width)` of the images that the networks are trained on; None: the data decides."""
        return training_size(self.train.crop_size, self.data.load_size)
