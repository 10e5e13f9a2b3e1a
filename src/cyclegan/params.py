"""`params.yaml` → frozen typed objects, validated once, at the edge.

Deeper code receives values from these objects and never a dictionary. Everything that can be known to be wrong
before work starts is refused here, in one line that names the key, its value and the remedy.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cyclegan.errors import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=1, le=16)]
Norm = Literal["instance", "instance_contrib", "batch", "none"]
Upsample = Literal["transpose", "resize", "antialias"]
AdversarialLoss = Literal["least_squares", "vanilla", "hinge", "wasserstein"]
Size = tuple[int, int]

FOLDER_A = "data/fluent-emoji/trainA"
FOLDER_B = "data/fluent-emoji/trainB"
FEATURES = "data/features/efficientnet-lite0.npz"
"""The feature network that comes with the project."""


class Section(BaseModel):
    """Frozen, no unknown keys, no silent conversion (`"3"` is not 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def impossible(message: str) -> PydanticCustomError:
    """A combination of keys that cannot work; `message` names them with the remedy."""
    return PydanticCustomError("impossible", "{message}", {"message": message})


def parse_size(value: Any, word: str) -> Any:
    """Read `64` or `[height, width]` in pixels as `(height, width)`; `word` stands for itself."""
    if value == word:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int for side in value):
        if min(value) < 1 or max(value) > 8192:
            raise impossible("must be between 1 and 8192 pixels a side")
        return tuple(value)
    raise impossible(f"must be one number of pixels, [height, width], or {word!r}")


class Data(Section):
    """Stages `fetch` and `split`."""

    source: Annotated[str, Field(min_length=1)]
    sha256: str | None
    folder_A: Annotated[str, Field(min_length=1)]
    folder_B: Annotated[str, Field(min_length=1)]
    name: str | None
    load_size: Literal["original"] | Size
    channels_A: Channels
    channels_B: Channels
    bit_depth: Literal[8, 16]
    val_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    on_bad_image: Literal["fail", "skip"]
    labels: Literal["none", "folders"]

    @field_validator("load_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "original")

    @field_validator("sha256")
    @classmethod
    def _sum(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise impossible("must be 64 hexadecimal digits in lower case, as sha256sum prints them")
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise impossible("must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        is_archive = self.source.startswith(("file:", "https:"))
        if self.source.startswith("http:"):
            raise impossible(f"data.source = {self.source!r}: plain http is refused; use https: or file:")
        if is_archive and self.sha256 is None:
            raise impossible("data.sha256 is empty: an archive needs its SHA-256 sum (run sha256sum on the file)")
        if self.sha256 is not None and not is_archive:
            raise impossible(
                f"data.sha256 is only read with an archive, not with data.source: {self.source}; set it to null"
            )
        if self.source != "folders" and (self.folder_A, self.folder_B) != (FOLDER_A, FOLDER_B):
            raise impossible(
                f"data.folder_A and data.folder_B are only read with data.source: folders, not {self.source!r}; "
                "set data.source: folders"
            )
        if self.labels != "none" and self.load_size == "original":
            raise impossible(
                f"data.labels: {self.labels} is for a classifier, which needs pictures of one size, but data.load_size "
                "is original; set it to a number"
            )
        if self.val_fraction + self.test_fraction >= 0.9:
            raise impossible("data.val_fraction + data.test_fraction leave under a tenth for training; lower them")
        return self

    @property
    def recorded_source(self) -> str:
        """`source` as runs record it: of an https address neither user, password, query nor fragment."""
        if not self.source.startswith("https:"):
            return self.source
        parts = urlsplit(self.source)
        return f"https://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def dataset(self) -> str:
        """The name under which runs and registered models of this data appear."""
        if self.name is not None:
            return self.name
        if self.source == "folders":
            raw = f"{Path(self.folder_A).name}2{Path(self.folder_B).name}"
        elif self.source.startswith(("file:", "https:")):
            # What follows a ? or # of an https address may be a secret; a file's name may hold both.
            path = urlsplit(self.source).path if self.source.startswith("https:") else self.source
            raw = re.sub(r"\.(zip|tar|tgz|tbz2|txz|tar\.\w+)$", "", path.rstrip("/").rsplit("/", 1)[-1])
        else:
            raw = self.source
        return re.sub(r"[^A-Za-z0-9._-]+", "-", raw).strip("-._")[:64] or "dataset"


class Model(Section):
    """The networks. Both generators share one form, and so do both discriminators."""

    generator: Literal["resnet", "unet", "unet_full"]
    base_filters: Annotated[int, Field(ge=1, le=1024)]
    blocks: Literal["auto"] | Annotated[int, Field(ge=0, le=64)]
    skip: Literal["add", "concat"]
    padding: Literal["reflect", "same"]
    upsample: Upsample
    norm: Norm
    output_norm: bool
    residual_output: bool
    dropout: Fraction
    discriminator: Literal["patch", "pixel", "tutorial"]
    patch_layers: Annotated[int, Field(ge=1, le=5)]
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)]
    discriminator_norm: Norm
    spectral_norm: bool
    init: Literal["normal", "xavier", "kaiming", "orthogonal"]
    init_gain: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.generator != "resnet":
            for key, only in (("blocks", "auto"), ("skip", "add"), ("padding", "same")):
                if getattr(self, key) != only:
                    raise impossible(
                        f"model.{key} has no effect with model.generator: {self.generator}; set it to {only!r}"
                    )
            if self.upsample == "antialias":
                raise impossible("model.upsample: antialias needs model.generator: resnet; use resize or transpose")
        if self.discriminator != "patch" and self.patch_layers != 3:
            raise impossible(
                f"model.patch_layers is only read with model.discriminator: patch, not {self.discriminator!r}; "
                "set it to 3"
            )
        if self.output_norm and self.norm == "none":
            raise impossible("model.output_norm needs a normalisation, but model.norm is none; set it to false")
        return self

    def blocks_for(self, size: Size) -> int:
        """Number of residual blocks at a training size: `auto` is the paper's 6 below 256 pixels, else 9."""
        if self.blocks != "auto":
            return self.blocks
        return 9 if min(size) >= 256 else 6

    def unet_depth(self, size: Size) -> int:
        """Halvings of a U-Net: down to one pixel on the shorter side where the size allows it."""
        return next(depth for depth in range(8, -1, -1) if all(side % 2**depth == 0 for side in size))

    def size_multiple(self, size: Size) -> int:
        """The generator's input sides must be multiples of this."""
        return 2 ** self.unet_depth(size) if self.generator != "resnet" else 4

    def objection_to(self, size: Size) -> str | None:
        """Why these networks cannot be trained on pictures of this size, with the remedy; None where they can."""
        multiple = self.size_multiple(size)
        if any(side % multiple for side in size):
            lower = [max(multiple, side // multiple * multiple) for side in size]
            return f": each side must be a multiple of {multiple} for model.generator: {self.generator}; use {lower}"
        if self.generator != "resnet" and self.unet_depth(size) < 4:
            return f": model.generator: {self.generator} halves its input at least 4 times; use multiples of 16"
        smallest = smallest_input(self)
        if min(size) < smallest:
            return (
                f" is too small for model.discriminator: {self.discriminator} with {self.patch_layers} layers; "
                f"use at least {smallest} or fewer layers"
            )
        return None


class Directions(Section):
    """One weight for each generator."""

    AtoB: NotNegative
    BtoA: NotNegative


class LossWeights(Section):
    """Weights of the four terms of a generator's loss, as one number or as `{AtoB: …, BtoA: …}`."""

    adversarial: Directions
    identity: Directions
    forward_cycle: Directions
    backward_cycle: Directions

    @field_validator("*", mode="before")
    @classmethod
    def _same_both_ways(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"AtoB": value, "BtoA": value}
        if not isinstance(value, dict):
            raise impossible("must be a number, or {AtoB: number, BtoA: number}")
        return value


class Plateau(Section):
    """When `lr_policy: plateau` lowers the learning rate, and by how much."""

    metric: str
    patience: Count
    factor: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        # Which figures there are depends on the data; stage `train` refuses the others before it starts.
        if not re.fullmatch(r"val_(AtoB|BtoA)/(kid|[a-z_]+_(l1|psnr|ssim))", value):
            raise impossible(
                "must be a validation figure: kid, or one that ends in l1, psnr or ssim, such as val_AtoB/kid"
            )
        return value


class OnDivergence(Section):
    """What to do when a loss or a weight becomes NaN or infinite."""

    retries: Annotated[int, Field(ge=0, le=100)]
    factor: Annotated[float, Field(gt=0, lt=1)]


class Train(Section):
    """Stage `train`."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    epochs: Count
    extend: bool
    steps_per_epoch: Literal["auto"] | Count
    batch_size: Annotated[int, Field(ge=1, le=1024)]
    crop_size: Literal["whole"] | Size
    flip: bool
    update_order: Literal["joint", "sequential"]
    adversarial_loss: AdversarialLoss
    loss_weights: LossWeights
    gradient_penalty: NotNegative
    r1_penalty: NotNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    pool_size: Annotated[int, Field(ge=0, le=100_000)]
    discriminator_batch: Annotated[int, Field(ge=2, le=1024)] | None
    learning_rate: Positive
    beta_1: Fraction
    beta_2: Fraction
    gradient_clip_norm: Positive | None
    lr_policy: Literal["constant", "linear", "cosine", "step", "plateau"]
    lr_decay_start: Annotated[float, Field(ge=0, le=1)] | None
    plateau: Plateau | None
    on_divergence: OnDivergence
    diff_augment: list[Literal["color", "translation", "cutout"]]
    ema_decay: Fraction
    mixed_precision: bool
    gradient_checkpointing: bool
    deterministic: bool
    jit_compile: Literal["auto"] | bool
    log_every: Count
    evaluate_every: Count
    select: str
    early_stop: Count | None
    checkpoint_every: Positive
    keep_checkpoints: Count
    sample_images: Annotated[int, Field(ge=1, le=64)]

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "whole")

    @field_validator("select")
    @classmethod
    def _selectable(cls, value: str) -> str:
        # Cycle and identity figures are perfect for a generator that does nothing.
        if value != "last" and not re.fullmatch(r"(val_(AtoB|BtoA)/)?(kid|pair_psnr|pair_ssim)", value):
            raise impossible("must be last, kid, pair_psnr or pair_ssim, or one of a single direction: val_AtoB/kid")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.early_stop is not None and self.select == "last":
            raise impossible("train.early_stop needs a figure to watch, but train.select is last; set it to kid")
        weights = self.loss_weights
        for direction in ("AtoB", "BtoA"):
            if not any(getattr(getattr(weights, term), direction) for term in LossWeights.model_fields):
                raise impossible(
                    f"train.loss_weights are all 0 for {direction}, whose generator learns nothing; raise one above 0"
                )
        if self.update_order == "joint" and (
            weights.forward_cycle.AtoB != weights.backward_cycle.BtoA
            or weights.forward_cycle.BtoA != weights.backward_cycle.AtoB
        ):
            raise impossible(
                "train.loss_weights: with train.update_order: joint each cycle is counted once, so forward_cycle of "
                "one direction must equal backward_cycle of the other; make them equal or use update_order: sequential"
            )
        if self.discriminator_batch is not None and self.discriminator_batch <= self.batch_size:
            raise impossible(
                f"train.discriminator_batch = {self.discriminator_batch} adds no picture to train.batch_size = "
                f"{self.batch_size}; raise it, or set it to null"
            )
        if self.discriminator_batch is not None and self.pool_size == 0:
            raise impossible(
                "train.discriminator_batch draws earlier pictures, but train.pool_size = 0 keeps none; "
                "set train.discriminator_batch to null, or train.pool_size to 50"
            )
        if self.gradient_penalty > 0 and self.adversarial_loss != "wasserstein":
            raise impossible(
                f"train.gradient_penalty = {self.gradient_penalty} belongs to train.adversarial_loss: wasserstein; "
                "set it to 0, or use train.r1_penalty"
            )
        if self.adversarial_loss == "wasserstein" and self.gradient_penalty == 0:
            raise impossible(
                "train.gradient_penalty = 0 leaves train.adversarial_loss: wasserstein without its Lipschitz "
                "constraint; set it to 10 (Gulrajani et al. 2017)"
            )
        if self.label_smoothing > 0 and self.adversarial_loss not in ("least_squares", "vanilla"):
            raise impossible(
                f"train.label_smoothing = {self.label_smoothing} has no labels to smooth with "
                f"train.adversarial_loss: {self.adversarial_loss}; set it to 0"
            )
        if self.jit_compile is True and self.deterministic:
            raise impossible(
                "train.jit_compile: true has no effect with train.deterministic: true, where Keras compiles nothing; "
                "set one of them to false"
            )
        decays = self.lr_policy in ("linear", "cosine", "step")
        if decays and self.lr_decay_start is None:
            raise impossible(f"train.lr_decay_start is null: train.lr_policy: {self.lr_policy} needs it; set it to 0.5")
        if not decays and self.lr_decay_start is not None:
            raise impossible(
                f"train.lr_decay_start has no effect with train.lr_policy: {self.lr_policy}; set it to null"
            )
        if self.lr_policy == "plateau" and self.plateau is None:
            raise impossible(
                "train.plateau is null: train.lr_policy: plateau needs it; "
                "set it to {metric: val_AtoB/cycle_l1, patience: 5, factor: 0.2}"
            )
        if self.lr_policy != "plateau" and self.plateau is not None:
            raise impossible(
                f"train.plateau is only read with train.lr_policy: plateau, not {self.lr_policy!r}; set it to null"
            )
        if len(set(self.diff_augment)) < len(self.diff_augment):
            raise impossible(f"train.diff_augment = {self.diff_augment} names a transform twice; name each once")
        return self


class Range(Section):
    """Numbers between two bounds, both included."""

    low: NotNegative
    high: Positive
    scale: Literal["linear", "log"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low >= self.high:
            raise impossible(f"low = {self.low} must be below high = {self.high}")
        if self.scale == "log" and self.low == 0:
            raise impossible("scale: log cannot reach low = 0; raise low above 0 or use scale: linear")
        return self


class WholeRange(Section):
    """Whole numbers between two bounds, both included."""

    low: Annotated[int, Field(ge=0, le=64)]
    high: Annotated[int, Field(ge=1, le=64)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low >= self.high:
            raise impossible(f"low = {self.low} must be below high = {self.high}")
        return self


def choices(kind: Any) -> Any:
    """Two or more different values of a kind, to choose from."""

    def differ(values: list) -> list:
        if len(set(values)) < len(values):
            raise impossible("names a value twice; name each once")
        return values

    return Annotated[list[kind], Field(min_length=2), AfterValidator(differ)]


class SearchSpace(Section):
    """What trials may change; null leaves a key as it is set in its own section."""

    cycle: Range | None
    identity: Range | None
    adversarial: Range | None
    per_direction: bool
    blocks: WholeRange | None
    learning_rate: Range | None
    base_filters: choices(Annotated[int, Field(ge=1, le=1024)]) | None  # type: ignore[valid-type]
    norm: choices(Norm) | None  # type: ignore[valid-type]
    upsample: choices(Upsample) | None  # type: ignore[valid-type]
    adversarial_loss: choices(AdversarialLoss) | None  # type: ignore[valid-type]


class Objective(Section):
    """One figure by which trials are compared: a weighted sum of validation figures."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w -]{0,31}$")]
    direction: Literal["maximize", "minimize"]
    terms: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("terms")
    @classmethod
    def _terms(cls, terms: dict[str, float]) -> dict[str, float]:
        # Which figures there are depends on the data; stage `search` refuses the others before it starts.
        for name, weight in terms.items():
            if re.fullmatch(r"(G_AtoB|G_BtoA|D_A|D_B)/.*", name):
                raise impossible(
                    f"{name} is a loss of the training: it falls and rises with the other network's skill and does "
                    "not tell quality; use a validation figure such as val_AtoB/pair_psnr"
                )
            if not re.fullmatch(r"val_(AtoB|BtoA)/\w+", name):
                raise impossible(f"{name} must be a validation figure, such as val_AtoB/pair_psnr")
            if weight == 0:
                raise impossible(f"{name} has weight 0; remove it")
        return terms


class Fidelity(Section):
    """How trials are made cheaper than the final training; null leaves a key as it is set in its own section."""

    epochs: Count | None
    steps_per_epoch: Count | None
    evaluate_every: Count | None
    crop_size: Size | None
    base_filters: Annotated[int, Field(ge=1, le=1024)] | None
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)] | None

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return None if value is None else parse_size(value, "whole")


class Search(Section):
    """Stage `search`."""

    trials: Annotated[int, Field(ge=0, le=100_000)]
    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    workers: Annotated[int, Field(ge=1, le=256)]
    storage: Annotated[str, Field(min_length=1)] | None
    command: Annotated[str, Field(min_length=1)] | None
    space: SearchSpace
    objectives: Annotated[list[Objective], Field(min_length=1, max_length=2)]
    pruner: Literal["none", "median", "hyperband"]
    fidelity: Fidelity
    finalists: Annotated[int, Field(ge=1, le=20)]
    repeats: Annotated[int, Field(ge=2, le=20)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise impossible(f"search.objectives both have the name {names[0]!r}; give each its own")
        if len(names) > 1 and self.pruner != "none":
            raise impossible(
                f"search.pruner: {self.pruner} needs one objective, but search.objectives has {len(names)}; "
                "set it to none"
            )
        if self.fidelity.base_filters is not None and self.space.base_filters is not None:
            raise impossible(
                "search.fidelity.base_filters fixes what search.space.base_filters searches; set one of them to null"
            )
        figures = [name for objective in self.objectives for name in objective.terms]
        if all(re.search(r"/(cycle|identity)_", name) for name in figures):
            raise impossible(
                f"search.objectives has only {', '.join(figures)}, in which a generator that changes nothing is "
                "perfect; add a figure that compares with the target domain, such as val_AtoB/pair_psnr"
            )
        return self


class Evaluate(Section):
    """Stage `evaluate`."""

    batch_size: Annotated[int, Field(ge=1, le=1024)]
    features: str
    features_size: Annotated[int, Field(ge=32, le=1024)]
    grid_images: Annotated[int, Field(ge=1, le=64)]
    classifier_steps: Count

    @field_validator("features")
    @classmethod
    def _network(cls, value: str) -> str:
        if value != FEATURES and not re.fullmatch(r".+\.(h5|keras)", value):
            raise impossible(
                f"must be {FEATURES}, or the path of an .h5 file (Keras' ImageNet weights of Inception-v3) or of a "
                ".keras file"
            )
        return value


class Gates(Section):
    """The figure that decides, for each direction."""

    AtoB: Annotated[str, Field(min_length=1)]
    BtoA: Annotated[str, Field(min_length=1)]


class Registry(Section):
    """Stage `register`."""

    gate: Gates

    @field_validator("gate", mode="before")
    @classmethod
    def _same_both_ways(cls, value: Any) -> Any:
        # Which figures there are depends on the data; stage `register` refuses the others.
        if isinstance(value, str):
            return {"AtoB": value, "BtoA": value}
        if not isinstance(value, dict):
            raise impossible("must be auto, the name of a test figure such as pair_psnr, or {AtoB: name, BtoA: name}")
        return value


class Tracking(Section):
    """Where MLflow runs are kept. Shapes no result, so no stage depends on it."""

    uri: str | None
    experiment: str | None
    offline: bool


class Params(Section):
    """The whole of `params.yaml`."""

    data: Data
    model: Model
    search: Search
    train: Train
    evaluate: Evaluate
    registry: Registry
    tracking: Tracking

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        weights = self.train.loss_weights.identity
        if self.data.channels_A != self.data.channels_B:
            if weights.AtoB > 0 or weights.BtoA > 0:
                raise impossible(
                    f"train.loss_weights.identity compares a generator's output with its input, but data.channels_A = "
                    f"{self.data.channels_A} and data.channels_B = {self.data.channels_B}; set the identity weight to 0"
                )
            if self.model.residual_output:
                raise impossible(
                    "model.residual_output adds the input to the output, but data.channels_A and data.channels_B "
                    "differ; set it to false"
                )
        if self.train.gradient_checkpointing and (
            self.model.generator != "resnet" or self.model.norm == "batch" or self.model.dropout > 0
        ):
            raise impossible(
                "train.gradient_checkpointing computes residual blocks twice: it needs model.generator: resnet with "
                "model.dropout: 0 and a model.norm other than batch; set it to false"
            )
        crop, load = self.train.crop_size, self.data.load_size
        if crop != "whole" and load != "original" and (crop[0] > load[0] or crop[1] > load[1]):
            raise impossible(f"train.crop_size {list(crop)} is larger than data.load_size {list(load)}; lower it")
        if self.training_size is not None:
            reason = self.model.objection_to(self.training_size)
            if reason is not None:
                name = "data.load_size" if crop == "whole" else "train.crop_size"
                raise impossible(f"{name} {list(self.training_size)}{reason}")
        return self

    @property
    def training_size(self) -> Size | None:
        """`(height, width)` of the pictures that the networks are trained on; None where it follows from the data."""
        if self.train.crop_size != "whole":
            return self.train.crop_size
        return None if self.data.load_size == "original" else self.data.load_size


def smallest_input(model: Model) -> int:
    """Smallest image side, in pixels, for which the discriminator still has an output."""
    if model.discriminator == "pixel":
        return 4
    halvings = 4 if model.discriminator == "tutorial" else model.patch_layers
    # The reference's PatchGAN ends with two unpadded-by-one 4×4 convolutions, each of which takes one pixel.
    return 2**halvings if model.discriminator == "tutorial" else 3 * 2**halvings


def load(path: Path) -> Params:
    """Read and validate a parameter file.

    Raises:
        UserError: the file is missing, is not YAML, or a key is unknown, missing, of the wrong type, out of range
            or at odds with another. One line per finding.
    """
    return validate(read(path), path.name)


def read(path: Path) -> Any:
    """Parse a YAML 1.2 file, as DVC does (PyYAML would read `2e-4` as text).

    Raises:
        UserError: the file is missing, unreadable or not YAML.
    """
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; 'cyclegan preset quickstart' writes one") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # A tag that does not fit its value, such as `!!int x`, ends in an exception of Python's.
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.name} is not valid YAML: {reason}") from None


def validate(tree: Any, name: str = "params.yaml") -> Params:
    """Turn a parsed parameter file into `Params`.

    Raises:
        UserError: see `load`; every message starts with `name`.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{name} must hold the sections {', '.join(Params.model_fields)}; it holds no mapping")
    try:
        return Params.model_validate(tree)
    except ValidationError as failure:
        # A key that takes one of several kinds of value has one finding for each: tell them in one line.
        findings: dict[str, list[str]] = {}
        for detail in failure.errors():
            subject, message = _explain(detail)
            findings.setdefault(subject, []).append(message)
        lines = [
            f"{name}: {subject}{', or '.join(dict.fromkeys(messages)).replace(', or must be', ', or')}"
            for subject, messages in findings.items()
        ]
        raise UserError("\n".join(lines)) from None


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `("train.loss_weights.identity", 5.0)` for every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """One validation finding as `("key = value: ", "what is wrong; remedy")`."""
    where = [str(part) for part in detail["loc"] if not _is_branch_label(part)]
    key, kind, value = ".".join(where), detail["type"], detail["input"]
    if kind == "impossible":
        # A section's own check names the keys that are at odds; a single value's check does not repeat its key.
        return (
            ("", detail["msg"]) if isinstance(value, dict | Section) else (f"{key} = {_shown(value)}: ", detail["msg"])
        )
    if kind == "extra_forbidden":
        # Whatever the key is, it is no label; and it may hold anything, a line break for instance.
        path, last = [str(part) for part in detail["loc"][:-1] if not _is_branch_label(part)], str(detail["loc"][-1])
        known = _known_keys(path)
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(known)}"
        shown = last if re.fullmatch(r"[\w-]+", last) else _shown(last)
        return f"{'.'.join([*path, shown])}: ", f"unknown key; {hint}"
    if kind == "missing":
        return f"{key}: ", "missing; add it ('cyclegan preset quickstart' writes a complete file)"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    message = message.replace("input should be", "must be").replace("greater than or equal to", "at least")
    if kind == "model_type":
        message = "must be a mapping of keys"
    elif isinstance(value, float) and not math.isfinite(value):
        message = "must be a finite number"
    return f"{key} = {_shown(value)}: ", message


def _shown(value: Any) -> str:
    """A value for a message, in one line of bearable length."""
    text = "a mapping" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_branch_label(part: Any) -> bool:
    """Pydantic adds the tried branch of a union (`constrained-int`, `literal['auto']`) to a key's path."""
    return not re.fullmatch(r"[A-Za-z_]\w*", str(part)) or part in ("bool", "int", "float", "str")


def _known_keys(path: list[str]) -> list[str]:
    section: Any = Params
    for part in path:
        annotation = section.model_fields[part].annotation
        # A section that may be null is a union.
        section = next((kind for kind in get_args(annotation) if kind is not type(None)), annotation)
    return list(section.model_fields)
