"""A params.yaml that is not valid is refused, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cyclegan.params import Params
from cyclegan.params.train import Train
from refusals import NETWORK, Facts, Spoil, all_of, edit_params, make_folder, put, remove, replace_text, set_params

SECTIONS = ", ".join(Params.model_fields)

REFUSED: dict[str, tuple[Spoil, Facts]] = {
    # The file.
    "params missing": (remove("params.yaml"), ["{root}/params.yaml", "does not exist", "cyclegan preset quickstart"]),
    "params empty": (put("params.yaml", ""), ["params.yaml", "mapping", SECTIONS]),
    "params a list": (put("params.yaml", "- data\n- model\n"), ["params.yaml", "mapping", SECTIONS]),
    "params a sentence": (put("params.yaml", "all of it"), ["params.yaml", "mapping", SECTIONS]),
    "params not YAML": (
        put("params.yaml", "data: [1, 2\ntrain: }"),
        ["params.yaml", "not valid YAML", "line 2, column 6"],
    ),
    "params with a tab": (
        put("params.yaml", "data:\n\tsource: folders\n"),
        ["params.yaml", "not valid YAML", "'\\t'", "line 2, column 1"],
    ),
    "params not UTF-8": (put("params.yaml", b"data: \xff\xfe"), ["{root}/params.yaml", "UTF-8"]),
    "params with control characters": (
        put("params.yaml", b"data: \x01\x02"),
        ["params.yaml", "not valid YAML", "#x0001", "position 6"],
    ),
    "params with a key twice": (
        put("params.yaml", "seed: 1\nseed: 2\n"),
        ["params.yaml", "not valid YAML", 'duplicate key "seed"', "line 2, column 1"],
    ),
    "params of two documents": (
        put("params.yaml", "a: 1\n---\nb: 2\n"),
        ["params.yaml", "not valid YAML", "line 2, column 1"],
    ),
    "params that make an object": (
        put("params.yaml", "data: !!python/object/apply:os.system ['touch x']\n"),
        ["params.yaml", "not valid YAML", "python/object/apply:os.system", "line 1, column 7"],
    ),
    "params that contain themselves": (
        put("params.yaml", "data: &x\n  source: *x\n"),
        ["params.yaml", "data.source", "a mapping", "string"],
    ),
    "params a folder": (
        all_of(remove("params.yaml"), make_folder("params.yaml")),
        ["{root}/params.yaml", "Is a directory"],
    ),
    # Keys.
    "section unknown": (
        lambda root: (root / "params.yaml").open("a").write("\ntrian:\n  epochs: 1\n"),
        ["params.yaml", "trian", "unknown key", "did you mean train?"],
    ),
    "section a number": (edit_params(lambda tree: tree.update(train=3)), ["params.yaml", "train", 3, "mapping"]),
    "key not text": (
        edit_params(lambda tree: tree["train"].update({7: 1})),
        ["params.yaml", "train.7", "unknown key", ", ".join(Train.model_fields)],
    ),
    "key unknown": (
        edit_params(lambda tree: tree["train"].update(epoch=tree["train"].pop("epochs"))),
        ["params.yaml", "train.epoch:", "unknown key", "did you mean train.epochs?"],
    ),
    # Types.
    "text for a number": (set_params(train={"epochs": "many"}), ["params.yaml", "train.epochs", "'many'", "integer"]),
    "number in quotes": (
        replace_text("  epochs: 1", "  epochs: '1'"),
        ["params.yaml", "train.epochs", "'1'", "integer"],
    ),
    "truth for a number": (
        set_params(train={"batch_size": True}),
        ["params.yaml", "train.batch_size", "True", "integer"],
    ),
    "null for a number": (
        set_params(train={"learning_rate": None}),
        ["params.yaml", "train.learning_rate", "None", "number"],
    ),
    "number for text": (set_params(data={"source": 7}), ["params.yaml", "data.source", 7, "string"]),
    "date for text": (
        replace_text("  source: folders", "  source: 2026-01-31"),
        ["params.yaml", "data.source", 2026, "string"],
    ),
    "list for a number": (set_params(train={"epochs": [1, 2]}), ["params.yaml", "train.epochs", "[1, 2]", "integer"]),
    "mapping for a number": (
        set_params(train={"epochs": {"first": 1}}),
        ["params.yaml", "train.epochs", "a mapping", "integer"],
    ),
    "devices and batch": (
        set_params(train={"batch_size": 1, "devices": 2}),
        ["params.yaml", "train.devices = 2", "train.batch_size = 1", "auto", "multiple"],
    ),
    "devices and discriminator batch": (
        set_params(train={"batch_size": 4, "devices": 4, "discriminator_batch": 6}),
        ["params.yaml", "train.devices = 4", "train.discriminator_batch = 6", "auto", "multiple"],
    ),
    "devices and dropout": (
        set_params(train={"batch_size": 2, "devices": 2}, model={"dropout": 0.5}),
        ["params.yaml", "train.devices = 2", "model.dropout = 0.5", "train.devices to 1"],
    ),
    "number for a truth": (set_params(train={"flip": 1}), ["params.yaml", "train.flip", 1, "boolean"]),
    # Ranges, sizes and choices.
    "negative": (
        set_params(train={"learning_rate": -1e-4}),
        ["params.yaml", "train.learning_rate", "-0.0001", "greater than 0"],
    ),
    "zero": (set_params(train={"epochs": 0}), ["params.yaml", "train.epochs", 0, "at least 1"]),
    "infinite": (
        set_params(train={"learning_rate": float("inf")}),
        ["params.yaml", "train.learning_rate", "inf", "finite number"],
    ),
    "not a number": (
        set_params(train={"beta_1": float("nan")}),
        ["params.yaml", "train.beta_1", "nan", "finite number"],
    ),
    "too large": (set_params(train={"batch_size": 10**30}), ["params.yaml", "train.batch_size", 10**30, 1024]),
    "size of three": (
        set_params(train={"crop_size": [16, 16, 3]}),
        ["params.yaml", "train.crop_size", "[16, 16, 3]", "[height, width]", "'whole'"],
    ),
    "size of zero": (set_params(data={"load_size": 0}), ["params.yaml", "data.load_size", 0, 1, 8192]),
    "size a word": (
        set_params(train={"crop_size": "all"}),
        ["params.yaml", "train.crop_size", "'all'", "[height, width]", "'whole'"],
    ),
    "size not a multiple": (
        set_params(train={"crop_size": 14}),
        ["params.yaml", "train.crop_size", "[14, 14]", "multiple of 4", "model.generator", "resnet", "[12, 12]"],
    ),
    "size too small for the discriminator": (
        all_of(set_params(train={"crop_size": 16}), set_params(model={"patch_layers": 5})),
        ["params.yaml", "train.crop_size", "[16, 16]", "model.discriminator", "patch", 5, 96, "model.patch_layers"],
    ),
    "crop larger than the image": (
        set_params(train={"crop_size": 32}),
        ["params.yaml", "train.crop_size", "[32, 32]", "data.load_size", "[16, 16]"],
    ),
    "weight a word": (
        set_params(
            train={"loss_weights": {"adversarial": "much", "identity": 1, "forward_cycle": 1, "backward_cycle": 1}}
        ),
        ["params.yaml", "train.loss_weights.adversarial", "'much'", "{AtoB: number, BtoA: number}"],
    ),
    "choice misspelt": (
        set_params(train={"update_order": "jiont"}),
        ["params.yaml", "train.update_order", "'jiont'", "'joint'", "'sequential'"],
    ),
    "choice in capitals": (
        set_params(model={"generator": "ResNet"}),
        ["params.yaml", "model.generator", "'ResNet'", "'resnet'", "'unet'", "'unet_full'"],
    ),
    "fractions that leave nothing": (
        set_params(data={"val_fraction": 0.5, "test_fraction": 0.45}),
        ["params.yaml", "data.val_fraction", "data.test_fraction"],
    ),
    "name with a slash": (set_params(data={"name": "a/b"}), ["params.yaml", "data.name", "'a/b'", 64]),
    "name with a command": (set_params(data={"name": "$(reboot)"}), ["params.yaml", "data.name", "'$(reboot)'", 64]),
    "very long value": (
        set_params(train={"update_order": "x" * 5000}),
        ["params.yaml", "train.update_order", f"'{'x' * 199}…", "'joint'", "'sequential'"],
    ),
    "outside a project": (remove("dvc.yaml"), ["dvc.yaml", "{root}"]),
    "features of an unknown network": (
        set_params(evaluate={"features": "resnet50"}),
        ["params.yaml", "evaluate.features", "'resnet50'", NETWORK, ".h5", ".keras"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_params_are_refused(refuses: Callable[..., None], name: str) -> None:
    refuses("params", *REFUSED[name])


@pytest.mark.parametrize("name", ["not a number"])
def test_a_process_of_its_own_prints_the_same(refuses: Callable[..., None], name: str) -> None:
    refuses("params", *REFUSED[name], own_process=True)
