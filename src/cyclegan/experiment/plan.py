"""The plan of a training from its parameters and data: image size, steps, selection and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from cyclegan.data.loading.dataset import PackedDataset, sizes_of
from cyclegan.data.loading.pipeline import batch_source, steps_per_epoch
from cyclegan.domains import DOMAINS
from cyclegan.evaluation.distributions import lack_for_kid
from cyclegan.evaluation.validation_series import validation_series
from cyclegan.params import Params, Size
from cyclegan.system.errors import UserError
from cyclegan.training.dispatch import Batch
from cyclegan.training.divergence import Retries
from cyclegan.training.plateau import Plateau
from cyclegan.training.progress import Plan
from cyclegan.training.selection import Selection


def refuse_other_channels(params: Params, dataset: PackedDataset) -> None:
    """Check that the data has as many channels as the parameters say.

    Raises:
        UserError: the data was packed with other parameters.
    """
    for domain, channels in zip(DOMAINS, (params.data.channels_A, params.data.channels_B), strict=True):
        dataset.require_channels(
            "train",
            {domain: channels},
            claim=f"data.channels_{domain} = {channels}",
            remedy="regenerate them with 'dvc repro split'",
        )


def with_possible_selection(params: Params, dataset: PackedDataset) -> Params:
    """Replace `train.select: auto` by `last`, and print why, if the validation split yields no metric to select by.

    Raises:
        UserError: `train.early_stop` needs such a metric.
    """
    lack = lack_for_kid({domain: len(dataset.images(domain, "val")) for domain in DOMAINS}, "val")
    if params.train.select != "auto" or lack is None or "val_AtoB/pair_psnr" in validation_series(dataset):
        return params
    if params.train.early_stop is not None:
        raise UserError(
            f"train.early_stop = {params.train.early_stop}: has no metric ({lack}); set it to null, or raise "
            "data.val_fraction"
        )
    print(f"{lack}, so train.select: auto keeps the last generators")
    return params.model_copy(update={"train": params.train.model_copy(update={"select": "last"})})


def training_size(params: Params, dataset: PackedDataset) -> Size:
    """`(height, width)` of the training images.

    Raises:
        UserError: an image is smaller than the crop. With `train.crop_size: whole`: the images differ in size, or the
            networks do not support their size.
    """
    known = params.training_size
    images = [
        (int(height), int(width), f"{name} ({width}×{height})")
        for domain in DOMAINS
        for name, (height, width) in zip(
            dataset.ids(domain, "train"), sizes_of(dataset.images(domain, "train")), strict=True
        )
    ]
    if known is not None:
        small = [label for height, width, label in images if height < known[0] or width < known[1]]
        if small:
            raise UserError(
                f"train.crop_size = {list(known)}: larger than {len(small)} of {len(images)} training images, "
                f"{_first(small)}; lower it, or set data.load_size to a number"
            )
        return known
    size = images[0][:2]
    others = [label for height, width, label in images if (height, width) != size]
    if others:
        raise UserError(
            f"train.crop_size: whole: {len(others)} of {len(images)} training images, {_first(others)}, differ in "
            f"size from {images[0][2]}; set train.crop_size or data.load_size to a number"
        )
    reason = params.model.objection_to(size)
    if reason is not None:
        raise UserError(f"train.crop_size: whole: the size of the images {list(size)}{reason}, by train.crop_size")
    return size


def _first(names: list[str]) -> str:
    """Up to five names, on one line."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def training_plan(params: Params, dataset: PackedDataset) -> Plan:
    """Convert epochs to steps for this data set.

    Raises:
        UserError: the learning rate or the selection needs a validation metric that this data does not allow.
    """
    options = params.train
    series = validation_series(dataset)
    selection = Selection.of(options.select, options.early_stop, series)
    plateau = None if options.plateau is None else Plateau(**options.plateau.model_dump())
    if plateau is not None:
        plateau.require(series)
    counts = [len(dataset.images(domain, "train")) for domain in DOMAINS]
    automatic = steps_per_epoch(max(counts), options.batch_size)
    return Plan(
        epochs=options.epochs,
        steps_per_epoch=automatic if options.steps_per_epoch == "auto" else options.steps_per_epoch,
        batch_size=options.batch_size,
        log_every=options.log_every,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
        plateau=plateau,
        on_divergence=Retries(**options.on_divergence.model_dump()),
        selection=selection,
    )


def batches(
    params: Params, dataset: PackedDataset, crop_size: Size, strategy: tf.distribute.Strategy | None = None
) -> Callable[[int], Iterable[Batch]]:
    """A function from a first step to the training batches from there on, divided among the strategy's devices."""
    options = params.train
    return batch_source(
        dataset.images("A", "train"),
        dataset.images("B", "train"),
        batch_size=options.batch_size,
        crop_size=crop_size,
        flip=options.flip,
        seed=options.seed,
        strategy=strategy,
    )
