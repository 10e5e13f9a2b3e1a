"""Stage train refuses data, parameters and stores that it cannot use, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refusals import NETWORK, Facts, Spoil, all_of, cut, nothing, put, remove, set_params, split_done

NO_IDENTITY = {"adversarial": 1, "identity": 0, "forward_cycle": 1, "backward_cycle": 1}
STORES = ("sqlite:///", "http(s)://", "postgresql://", "mlflow migrate-filestore")

REFUSED: dict[str, tuple[Spoil, Facts]] = {
    "train without data": (
        nothing,
        ["{root}/data/split", "No such file or directory", "{root}/data/split/manifest.csv", "dvc repro split"],
    ),
    "train on a broken manifest": (
        all_of(split_done, put("data/split/manifest.csv", "id,domain\n")),
        ["{root}/data/split", "manifest.csv", "column height", "dvc repro split"],
    ),
    "train on missing pixels": (
        all_of(split_done, remove("data/split/trainB.npy")),
        ["{root}/data/split", "No such file or directory", "{root}/data/split/trainB.npy", "dvc repro split"],
    ),
    "train on pixels cut short": (
        all_of(split_done, cut("data/split/trainA.npy")),
        ["{root}/data/split", "mmap length is greater than file size", "dvc repro split"],
    ),
    "train with other channels than the data": (
        all_of(
            split_done,
            set_params(data={"channels_A": 1}, model={"residual_output": False}, train={"loss_weights": NO_IDENTITY}),
        ),
        ["data.channels_A", 1, 3, "{root}/data/split", "dvc repro split"],
    ),
    "train with a crop larger than the data": (
        all_of(split_done, set_params(data={"load_size": 32}, train={"crop_size": 32})),
        ["train.crop_size", "[32, 32]", "data.load_size", 20, "trainA/1", "16×16", "…"],
    ),
    "train with a plateau that is not measured": (
        all_of(
            split_done,
            set_params(
                train={
                    "select": "last",
                    "lr_policy": "plateau",
                    "lr_decay_start": None,
                    "plateau": {"metric": "val_AtoB/pair_psnr", "patience": 1, "factor": 0.5},
                }
            ),
        ),
        [
            "train.plateau.metric",
            "'val_AtoB/pair_psnr'",
            "val_AtoB/cycle_l1, val_AtoB/identity_l1, val_BtoA/cycle_l1, val_BtoA/identity_l1",
        ],
    ),
    "train with a choice that is not measured": (
        all_of(split_done, set_params(train={"select": "pair_psnr"})),
        ["train.select", "'pair_psnr'", "last"],
    ),
    "train without the feature network": (
        all_of(split_done, remove("data/features")),
        [f"{{root}}/{NETWORK}", "does not exist", "git checkout -- data/features"],
    ),
    "train with a feature network that is not there": (
        all_of(split_done, set_params(evaluate={"features": "my/own.keras"})),
        ["evaluate.features", "{root}/my/own.keras", "does not exist", NETWORK],
    ),
}
REFUSED_STORES: dict[str, tuple[Spoil, Facts]] = {
    "tracking store of files": (
        all_of(split_done, set_params(tracking={"uri": "mlruns"})),
        ["tracking.uri", "mlruns", *STORES],
    ),
    "tracking store of an unknown kind": (
        all_of(split_done, set_params(tracking={"uri": "mongodb://me:secret@host/x"})),
        ["tracking.uri", "mongodb://host/x", *STORES],
    ),
    "tracking store no database": (
        all_of(split_done, put("mlruns/mlflow.db", "text")),
        ["{root}/mlruns/mlflow.db", "file is not a database"],
    ),
}


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("name", REFUSED)
def test_train_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses("train", *REFUSED[name])


@pytest.mark.parametrize("name", REFUSED_STORES)
def test_train_refuses_a_store(refuses: Callable[..., None], name: str) -> None:
    refuses("train", *REFUSED_STORES[name])
