"""What a training does, from its parameters and its data: size, plan and batches; refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    """Refuse data with other channels than the networks of these parameters have.

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
    """Turn `train.select: auto` into `last` where the validation split has no metric to choose by, and say why.

    Raises:
        UserError: `train.early_stop` needs such a metric.
    """
    lack = lack_for_kid({domain: len(dataset.images(domain, "val")) for domain in DOMAINS}, "val")
    if params.train.select != "auto" or lack is None or "val_AtoB/pair_psnr" in validation_series(dataset):
        return params
    if params.train.early_stop is not None:
        raise UserError(
            f"train.early_stop = {params.train.early_stop}: has no metric to watch, {lack}; set it to null, or raise "
            "data.val_fraction"
        )
    print(f"{lack}, so train.select: auto keeps the last generators")
    return params.model_copy(update={"train": params.train.model_copy(update={"select": "last"})})


def training_size(params: Params, dataset: PackedDataset) -> Size:
    """`(height, width)` of the images that the networks see.

    Raises:
        UserError: a training image is smaller than the crop, or images that are to stay whole differ in size or have a
            size that the networks cannot take.
    """
    known = params.training_size
    found = [
        (int(height), int(width), f"{name} ({width}×{height})")
        for domain in DOMAINS
        for name, (height, width) in zip(
            dataset.ids(domain, "train"), sizes_of(dataset.images(domain, "train")), strict=True
        )
    ]
    if known is not None:
        small = [shown for height, width, shown in found if height < known[0] or width < known[1]]
        if small:
            raise UserError(
                f"train.crop_size {list(known)} is larger than {len(small)} of {len(found)} training images; "
                f"lower it, or set data.load_size to a number: {_first(small)}"
            )
        return known
    size = found[0][:2]
    others = [shown for height, width, shown in found if (height, width) != size]
    if others:
        raise UserError(
            f"train.crop_size: whole needs training images of one size, but {found[0][2]} is not the size of "
            f"{len(others)} of {len(found)}; set train.crop_size or data.load_size to a number: {_first(others)}"
        )
    reason = params.model.objection_to(size)
    if reason is not None:
        raise UserError(f"train.crop_size: whole, the images' size {list(size)}{reason}, by train.crop_size")
    return size


def _first(names: list[str]) -> str:
    """A few names, on one line."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def training_plan(params: Params, dataset: PackedDataset) -> Plan:
    """Turn epochs into steps for this data set.

    Raises:
        UserError: the learning rate or the choice of the generators is to follow a validation metric that this data
            does not allow.
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


def batches(params: Params, dataset: PackedDataset, crop_size: Size) -> Callable[[int], Iterable[Batch]]:
    """The training batches from a step on, as section `train` wants them."""
    options = params.train
    return batch_source(
        dataset.images("A", "train"),
        dataset.images("B", "train"),
        batch_size=options.batch_size,
        crop_size=crop_size,
        flip=options.flip,
        seed=options.seed,
    )
