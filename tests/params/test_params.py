"""Which parameters are accepted, and which message each mistake gets."""

from __future__ import annotations

import copy
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cyclegan.params import Params, flatten, load, read, validate
from cyclegan.params.derived import residual_blocks
from cyclegan.params.presets import write_params
from cyclegan.params.section import plain
from cyclegan.params.yaml_text import header_of, parameters_page, yaml_text
from cyclegan.system.errors import UserError
from refusals import Facts, holds

ROOT = Path(__file__).parents[2]
GOOD = read(ROOT / "params.yaml")
# The cases below start from these values, independent of the committed quick start.
START = {
    "data": {"load_size": 64},
    "model": {"generator": "resnet", "blocks": 4, "skip": "add", "padding": "reflect", "upsample": "resize"}
    | {"norm": "instance", "discriminator": "patch", "patch_layers": 3},
    "train": {"crop_size": 64, "update_order": "joint", "adversarial_loss": "least_squares", "lr_policy": "linear"}
    | {"lr_decay_start": 0.5, "plateau": None, "diff_augment": [], "deterministic": True, "jit_compile": "auto"}
    | {"loss_weights": dict.fromkeys(("adversarial", "identity", "forward_cycle", "backward_cycle"), 1.0)},
}


def changed(**values: Any) -> dict[str, Any]:
    """Good parameters with some keys set, `train__epochs=3` for train.epochs."""
    tree = copy.deepcopy(GOOD)
    for section, start in copy.deepcopy(START).items():
        tree[section] |= start
    for path, value in values.items():
        *parents, last = path.split("__")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = copy.deepcopy(value)
    return tree


def test_committed_file_and_presets_are_valid() -> None:
    assert load(ROOT / "params.yaml").train.epochs >= 1
    presets = sorted((ROOT / "presets").glob("*.yaml"))
    assert len(presets) >= 3
    for preset in presets:
        validate(read(preset), preset.name)


def test_every_key_has_a_comment_above_it() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("  ") and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), line


def test_an_experiment_changes_the_line_of_its_parameter_only(tmp_path: Path) -> None:
    """DVC rewrites the file: the committed files have its layout."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    files = ["params.yaml"]
    for preset in sorted((ROOT / "presets").glob("*.yaml")):
        files.append(preset.name)
        write_params(tmp_path / preset.name, validate(read(preset)), preset.stem)
    (tmp_path / "dvc.yaml").write_text("stages: {nothing: {cmd: 'true'}}\n")

    def run(*command: str) -> str:
        identity = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Test"}
        identity |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "test@example.org"}
        environment = {**os.environ, **identity, "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = {file: read(tmp_path / file)["train"]["epochs"] for file in files}
    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "start")
    run("dvc", "exp", "run", *(argument for file in files for argument in ("-S", f"{file}:train.epochs=77")))
    for file in files:
        changed = [line for line in run("git", "diff", "--unified=0", "--", file).splitlines() if line[:1] in "+-"]
        assert changed[2:] == [f"-  epochs: {before[file]}", "+  epochs: 77"], file


def test_every_key_is_a_field_and_frozen() -> None:
    params = validate(copy.deepcopy(GOOD))
    assert {key for key, _ in flatten(GOOD)} <= {
        key for known, _ in flatten(params.model_dump()) for key in (known, known.rpartition(".")[0])
    }
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 3  # type: ignore[misc]


def test_one_number_means_both_directions_and_both_sides() -> None:
    params = validate(changed(train__loss_weights__identity=2.5, train__crop_size=32))
    assert params.train.loss_weights.identity.model_dump() == {"AtoB": 2.5, "BtoA": 2.5}
    assert params.train.crop_size == (32, 32)
    weights = changed(train__update_order="sequential", train__loss_weights__forward_cycle={"AtoB": 3, "BtoA": 4})
    assert validate(weights).train.loss_weights.forward_cycle.BtoA == 4
    assert validate(changed(train__crop_size=[32, 64])).train.crop_size == (32, 64)


@pytest.mark.parametrize(
    ("size", "blocks"), [(64, 6), (252, 6), (256, 9), ([256, 128], 6)], ids=["64", "252", "256", "not square"]
)
def test_automatic_blocks(size: Any, blocks: int) -> None:
    params = validate(changed(data__load_size=size, train__crop_size=size, model__blocks="auto"))
    assert residual_blocks(params.model.blocks, params.training_size) == blocks


@pytest.mark.parametrize(
    ("source", "extra", "name"),
    [
        ("fluent-emoji", {}, "fluent-emoji"),
        ("horse2zebra", {}, "horse2zebra"),
        ("file:///data/My%20Set.tar.gz", {"data__sha256": "0" * 64}, "My-Set"),
        ("file:set.zip", {"data__sha256": "0" * 64}, "set"),
        ("folders", {"data__folder_A": "/x/summer", "data__folder_B": "/y/winter"}, "summer2winter"),
        ("folders", {"data__folder_A": "a", "data__folder_B": "b", "data__name": "mine"}, "mine"),
        ("folders", {"data__folder_A": "/d/cats/trainA", "data__folder_B": "/d/cats/trainB"}, "cats"),
        ("folders", {"data__folder_A": "/d/cats/A", "data__folder_B": "/d/dogs/B"}, "A2B"),
        ("folders", {"data__folder_A": "trainA", "data__folder_B": "trainB"}, "trainA2trainB"),
    ],
)
def test_name_of_the_data_set(source: str, extra: dict[str, Any], name: str) -> None:
    assert validate(changed(data__source=source, **extra)).data.dataset == name


@pytest.mark.parametrize(
    ("source", "extra", "arrow"),
    [
        ("fluent-emoji", {"data__names": ["flat", "3D"]}, "flat → 3D"),
        ("fluent-emoji", {"data__names": {"A": "flat", "B": "3D"}}, "flat → 3D"),
        ("fluent-emoji", {}, "A → B"),
        ("folders", {"data__folder_A": "/x/summer", "data__folder_B": "y/winter day/"}, "summer → winter day"),
        ("folders", {"data__folder_A": "/x/summer", "data__folder_B": "b", "data__names": ["C", "D"]}, "C → D"),
        ("folders", {"data__folder_A": "/d/cats/trainA", "data__folder_B": "/d/cats/trainB"}, "A → B"),
        ("folders", {"data__folder_A": "/d/cats/a", "data__folder_B": "/d/dogs/Train_B"}, "A → B"),
        (
            "folders",
            {"data__folder_A": "/d/cats/photos", "data__folder_B": "/d/dogs/photos", "data__name": "x"},
            "A → B",
        ),
        ("folders", {"data__folder_A": "/d/R&D", "data__folder_B": "/d/photos"}, "A → B"),
    ],
)
def test_names_of_the_domains(source: str, extra: dict[str, Any], arrow: str) -> None:
    params = validate(changed(**{"data__source": source, "data__names": None} | extra))
    names = params.data.domain_names
    assert names.arrow("AtoB") == arrow
    assert names.arrow("BtoA") == " → ".join(reversed(arrow.split(" → ")))
    assert arrow == f"{names.of('A')} → {names.of('B')}"


def test_names_shape_no_weights() -> None:
    assert validate(changed(data__names=["x", "y"])).shaping == validate(changed(data__names=None)).shaping


PLATEAU = {
    "train__lr_policy": "plateau",
    "train__lr_decay_start": None,
    "train__plateau": {"metric": "val_AtoB/pair_psnr", "patience": 3, "factor": 0.5},
}

OBJECTIVE = {"name": "quality", "direction": "maximize", "terms": {"val_AtoB/pair_psnr": 1.0}}


def objectives(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"search__objectives": [OBJECTIVE | change for change in changes]}


BAD: list[tuple[dict[str, Any], Facts]] = [
    ({"train__epoch": 3}, ["train.epoch", "unknown key", "train.epochs?"]),
    ({"trane": {}}, ["trane", "unknown key", "train?"]),
    ({"train": {7: 1}}, ["train.7", "unknown key", "seed, epochs"]),
    ({"train__zzz": 1}, ["train.zzz", "unknown key", "seed, epochs"]),
    ({"train__epochs": "3"}, ["train.epochs", "'3'", "integer"]),
    ({"train__epochs": True}, ["train.epochs", "True", "integer"]),
    ({"train__epochs": 2.5}, ["train.epochs", "2.5", "integer"]),
    ({"train__epochs": None}, ["train.epochs", "None", "integer"]),
    ({"train__epochs": 0}, ["train.epochs", 0, "at least 1"]),
    ({"train__epochs": [1]}, ["train.epochs", "[1]", "integer"]),
    ({"train": None}, ["train", "None", "mapping"]),
    ({"train": []}, ["train", "[]", "mapping"]),
    ({"train__flip": "yes"}, ["train.flip", "'yes'", "boolean"]),
    ({"train__learning_rate": float("nan")}, ["train.learning_rate", "nan", "finite number"]),
    ({"train__learning_rate": float("inf")}, ["train.learning_rate", "inf", "finite number"]),
    ({"train__learning_rate": -1.0}, ["train.learning_rate", "-1.0", "greater than 0"]),
    ({"train__learning_rate": "2e-4"}, ["train.learning_rate", "'2e-4'", "number"]),
    ({"train__beta_1": 1.0}, ["train.beta_1", "1.0", "less than 1"]),
    ({"train__steps_per_epoch": "many"}, ["train.steps_per_epoch", "'many'", "'auto'", "integer"]),
    ({"train__steps_per_epoch": 0}, ["train.steps_per_epoch", 0, "'auto'", "at least 1"]),
    ({"train__jit_compile": 1}, ["train.jit_compile", 1, "'auto'", "boolean"]),
    ({"train__update_order": "both"}, ["train.update_order", "'both'", "'joint'", "'sequential'"]),
    ({"train__crop_size": 63}, ["train.crop_size", "[63, 63]", "multiple of 4"]),
    ({"train__crop_size": 128}, ["train.crop_size", "[128, 128]", "data.load_size", "[64, 64]"]),
    ({"train__crop_size": [64]}, ["train.crop_size", "[64]", "[height, width]", "'whole'"]),
    ({"train__crop_size": "64"}, ["train.crop_size", "'64'", "[height, width]", "'whole'"]),
    (
        {"train__crop_size": "original"},
        ["train.crop_size", "'original'", "[height, width]"],
    ),
    ({"data__load_size": "whole"}, ["data.load_size", "'whole'", "[height, width]", "'original'"]),
    (
        {"data__load_size": 66, "train__crop_size": "whole"},
        ["data.load_size", "[66, 66]", "multiple of 4", "model.generator", "resnet", "[64, 64]"],
    ),
    ({"data__load_size": "original", "train__crop_size": 66}, ["train.crop_size", "[66, 66]", "multiple of 4"]),
    ({"data__labels": "names"}, ["data.labels", "'names'", "'none'", "'folders'"]),
    ({"data__labels": "folders", "data__load_size": "original"}, ["data.labels", "folders", "classifier"]),
    ({"evaluate__classifier_steps": 0}, ["evaluate.classifier_steps", 0, "at least 1"]),
    ({"data__load_size": 0}, ["data.load_size", 0, "between 1 and 8192"]),
    ({"data__load_size": 100_000}, ["data.load_size", 100000, "between 1 and 8192"]),
    ({"model__blocks": "nine"}, ["model.blocks", "'nine'", "'auto'", "integer"]),
    ({"model__blocks": -1}, ["model.blocks", "-1", "'auto'", "at least 0"]),
    ({"model__norm": "none", "model__output_norm": True}, ["model.output_norm", "model.norm", "none"]),
    ({"train__gradient_checkpointing": True, "model__dropout": 0.5}, ["train.gradient_checkpointing", "model.dropout"]),
    (
        {"train__gradient_checkpointing": True, "model__blocks": 0},
        ["train.gradient_checkpointing", "model.generator", "resnet", "model.blocks"],
    ),
    (
        {"model__discriminator": "tutorial", "model__patch_layers": 3, "train__crop_size": 16},
        ["train.crop_size", "model.discriminator", "tutorial", 17],
    ),
    (
        {"model__discriminator": "pixel", "model__patch_layers": 3, "train__crop_size": 4},
        ["train.crop_size", "[4, 4]", "model.generator", "resnet"],
    ),
    ({"model__patch_layers": 5}, ["train.crop_size", "model.discriminator", "patch", 5, 96]),
    ({"data__channels_A": 1}, ["train.loss_weights.identity", "data.channels_A"]),
    ({"data__channels_A": 17}, ["data.channels_A", 17, "at most 16"]),
    ({"data__channels_A": 0}, ["data.channels_A", 0, "at least 1"]),
    ({"data__bit_depth": 12}, ["data.bit_depth", 12, "8 or 16"]),
    ({"data__source": "http://x/y.zip"}, ["data.source", "'http://x/y.zip'", "https:", "file:"]),
    ({"data__source": "https://host:80a/x.zip"}, ["data.source", "https", "host and port"]),
    ({"data__source": "https://[::1/x.zip"}, ["data.source", "https", "host and port"]),
    ({"data__source": "https://host/bücher.zip"}, ["data.source", "percent-encoded"]),
    ({"data__source": "file:x.zip"}, ["data.sha256", "empty", "sha256sum"]),
    ({"data__sha256": "abc"}, ["data.sha256", "'abc'", 64]),
    (
        {"data__folder_A": None},
        ["data.folder_A", "None", "DVC", "data/fluent-emoji/trainA"],
    ),
    (
        {"data__folder_B": ""},
        ["data.folder_B", "''", "DVC", "data/fluent-emoji/trainB"],
    ),
    ({"data__folder_A": "~/x"}, ["data.folder_A", "'~/x'", "DVC", f"write {Path.home()}/x"]),
    (
        {"data__folder_A": "$HOME/x"},
        ["data.folder_A", "'$HOME/x'", "DVC", f"write {os.environ['HOME']}/x"],
    ),
    (
        {"data__folder_B": "file:///x%20y/z"},
        ["data.folder_B", "'file:///x%20y/z'", "write /x y/z"],
    ),
    (
        {"data__source": "folders", "data__folder_A": "写真", "data__folder_B": "paintings"},
        ["data.name", "'写真'", "'paintings'"],
    ),
    ({"data__source": "file:写真.zip", "data__sha256": "0" * 64}, ["data.name", "写真"]),
    ({"data__name": "a b"}, ["data.name", "'a b'", 64]),
    ({"data__names": "flat"}, ["data.names", "'flat'", "[flat, 3D]"]),
    ({"data__names": ["flat"]}, ["data.names", "['flat']", "[flat, 3D]"]),
    ({"data__names": {"A": "flat", "B": "3D", "C": "4D"}}, ["data.names.C", "unknown key", "data.names"]),
    ({"data__names": ["flat", 3]}, ["data.names.B", 3, "string"]),
    ({"data__names": ["a", "a"]}, ["data.names", "'a'", "different"]),
    ({"data__names": ["a", ""]}, ["data.names.B", "''", 32]),
    ({"data__names": ["a", "b" * 33]}, ["data.names.B", "b" * 33, 32]),
    ({"data__names": ["a\nb", "c"]}, ["data.names.A", "'a\\nb'", "printable"]),
    ({"data__names": ["a", "<b>"]}, ["data.names.B", "'<b>'", "printable"]),
    ({"data__names": ["../a", "b"]}, ["data.names.A", "'../a'", "printable"]),
    ({"data__names": [" a", "b"]}, ["data.names.A", "' a'", "spaces"]),
    ({"data__name": "../x"}, ["data.name", "'../x'", 64]),
    ({"data__val_fraction": 0.5, "data__test_fraction": 0.5}, ["data.val_fraction", "data.test_fraction"]),
    ({"data__on_bad_image": "ignore"}, ["data.on_bad_image", "'ignore'", "'fail'", "'skip'"]),
    ({"train__loss_weights__identity": "x"}, ["train.loss_weights.identity", "'x'", "{AtoB: number, BtoA: number}"]),
    ({"train__loss_weights__identity": {"AtoB": 1}}, ["train.loss_weights.identity.BtoA", "missing"]),
    (
        {"train__loss_weights__identity": {"AtoB": -1, "BtoA": 1}},
        ["train.loss_weights.identity.AtoB", "-1", "at least 0"],
    ),
    (
        {"train__loss_weights": dict.fromkeys(("adversarial", "identity", "forward_cycle", "backward_cycle"), 0.0)},
        ["train.loss_weights", "AtoB", 0],
    ),
    ({"train__loss_weights__forward_cycle": 3}, ["train.loss_weights", "update_order: sequential"]),
    (
        {"train__adversarial_loss": "wgan"},
        ["train.adversarial_loss", "'wgan'", "'least_squares'", "'vanilla'", "'hinge'", "'wasserstein'"],
    ),
    ({"train__adversarial_loss": "wasserstein"}, ["train.gradient_penalty", "wasserstein", 10]),
    ({"train__gradient_penalty": 10.0}, ["train.gradient_penalty", "10.0", "train.adversarial_loss", "wasserstein"]),
    ({"train__discriminator_batch": 2, "train__batch_size": 2}, ["train.discriminator_batch", "train.batch_size", 2]),
    ({"train__discriminator_batch": 2, "train__pool_size": 0}, ["train.pool_size", 0, "train.discriminator_batch"]),
    ({"train__gradient_clip_norm": 0.0}, ["train.gradient_clip_norm", "0.0", "greater than 0"]),
    ({"train__lr_decay_start": None}, ["train.lr_decay_start", "null", "train.lr_policy", "linear", "0.5"]),
    (PLATEAU | {"train__plateau": None}, ["train.plateau", "null", "train.lr_policy", "{metric"]),
    (PLATEAU | {"train__plateau__metric": "val_AtoB/psn"}, ["train.plateau.metric", "val_AtoB/psn", "kid"]),
    (
        {"train__select": "cycle_l1"},
        ["train.select", "'cycle_l1'", "auto, last, kid, pair_psnr or pair_ssim"],
    ),
    (
        {"train__select": "val_AtoC/kid"},
        ["train.select", "'val_AtoC/kid'", "auto, last, kid, pair_psnr or pair_ssim"],
    ),
    ({"train__select": "last", "train__early_stop": 3}, ["train.early_stop", "train.select"]),
    (
        {"evaluate__features": "resnet50"},
        ["evaluate.features", "'resnet50'", "data/features/efficientnet-lite0.npz", ".h5"],
    ),
    (
        {"evaluate__features": "~/x.h5"},
        ["evaluate.features", "'~/x.h5'", "DVC", f"write {Path.home()}/x.h5"],
    ),
    ({"evaluate__features_size": 16}, ["evaluate.features_size", 16, "at least 32"]),
    (PLATEAU | {"train__plateau__factor": 1.0}, ["train.plateau.factor", "1.0", "less than 1"]),
    (PLATEAU | {"train__plateau__patiense": 1}, ["train.plateau.patiense", "unknown key", "train.plateau.pat"]),
    ({"train__diff_augment": ["hue"]}, ["train.diff_augment", "'hue'", "'color'", "'translation'", "'cutout'"]),
    ({"train__diff_augment": "color"}, ["train.diff_augment", "'color'", "list"]),
    ({"train__diff_augment": ["color", "color"]}, ["train.diff_augment", "twice"]),
    ({"search__trials": -1}, ["search.trials", "-1", "at least 0"]),
    ({"search__workers": 0}, ["search.workers", 0, "at least 1"]),
    ({"search__study": "a b"}, ["search.study", "'a b'", "must match"]),
    (
        {"search__space__cycle": {"low": 2.0, "high": 1.0, "scale": "log"}},
        ["search.space.cycle:", "low = 2.0", "high = 1.0"],
    ),
    (
        {"search__space__cycle": {"low": 0.0, "high": 1.0, "scale": "log"}},
        ["search.space.cycle:", "scale: log", "low = 0", "linear"],
    ),
    ({"search__space__cycle__scale": "ln"}, ["search.space.cycle.scale", "'ln'", "'linear'", "'log'"]),
    ({"search__space__blocks": {"low": 9, "high": 6}}, ["search.space.blocks:", "low = 9", "high = 6"]),
    ({"search__space__norm": ["instance"]}, ["search.space.norm", "['instance']", "at least 2 items"]),
    ({"search__space__norm": ["batch", "batch"]}, ["search.space.norm", "twice"]),
    ({"search__space__norms": None}, ["search.space.norms", "unknown key", "search.space.norm?"]),
    ({"search__pruner": "best"}, ["search.pruner", "'best'", "'none'", "'median'", "'hyperband'"]),
    ({"search__fidelity__epochs": 0}, ["search.fidelity.epochs", 0, "at least 1"]),
    (
        {"search__fidelity__base_filters": 8, "search__space__base_filters": [8, 16]},
        ["search.fidelity.base_filters", "search.space.base_filters", "null"],
    ),
    ({"search__repeats": 1}, ["search.repeats", 1, "at least 2"]),
    (objectives(), ["search.objectives", "[]"]),
    ({"search__objectives": "automatic"}, ["search.objectives", "'automatic'", "'auto'"]),
    (objectives({}, {}), ["search.objectives", "'quality'"]),
    (objectives({"direction": "up"}), ["search.objectives.direction", "'up'", "'maximize'", "'minimize'"]),
    (objectives({"terms": {}}), ["search.objectives.terms", "a mapping"]),
    (
        objectives({"terms": {"G_AtoB/total": 1.0}}),
        ["search.objectives.terms", "G_AtoB/total", "loss", "val_AtoB/pair_psnr"],
    ),
    (
        objectives({"terms": {"D_A/output_fake": 1.0}}),
        ["search.objectives.terms", "D_A/output_fake", "loss", "val_AtoB/pair_psnr"],
    ),
    (
        objectives({"terms": {"test_AtoB/pair_psnr": 1.0}}),
        ["search.objectives.terms", "test_AtoB/pair_psnr", "validation", "val_AtoB/pair_psnr"],
    ),
    (objectives({"terms": {"val_AtoB/pair_psnr": 0.0}}), ["search.objectives.terms", "val_AtoB/pair_psnr", 0]),
    (objectives({"terms": {"val_AtoB/cycle_l1": 1.0}}), ["search.objectives", "val_AtoB/cycle_l1"]),
    (
        objectives({}, {"name": "other"}) | {"search__pruner": "median"},
        ["search.pruner", "median", "search.objectives", 2, "none"],
    ),
    ({"train__checkpoint_every": 0}, ["train.checkpoint_every", 0, "greater than 0"]),
]


@pytest.mark.parametrize(("values", "facts"), BAD, ids=[" ".join(values) for values, _ in BAD])
def test_each_mistake_is_one_line(values: dict[str, Any], facts: Facts) -> None:
    with pytest.raises(UserError) as caught:
        validate(changed(**values))
    (line,) = str(caught.value).splitlines()
    key = re.match(r"params\.yaml: ([A-Za-z]\w*(?:\.\w+)*)", line)
    assert key is not None
    assert key[1].split(".")[0] in ("trane", *Params.model_fields)
    assert [fact for fact in facts if not holds(line, fact)] == [], line


def test_each_mistake_has_its_own_line() -> None:
    values = {"search__space__cycle__low": 30.0, "search__space__blocks": {"low": 9, "high": 6}, "train__epochs": 0}
    values |= {"train__loss_weights__identity": -1}
    with pytest.raises(UserError) as caught:
        validate(changed(**values, **objectives({"direction": "up"})))
    keys = [re.split("[: ]+", line)[1] for line in str(caught.value).splitlines()]
    assert keys == [
        *("search.space.cycle", "search.space.blocks", "search.objectives.direction", "train.epochs"),
        *("train.loss_weights.identity.AtoB", "train.loss_weights.identity.BtoA"),
    ]


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"data__source": "horse2zebra", "data__folder_A": "mine"}, ["data.folder_A"]),
        ({"data__folder_A": "mine", "data__folder_B": "yours"}, ["data.folder_A", "data.folder_B"]),
        ({"data__sha256": "0" * 64}, ["data.sha256"]),
        (
            {"data__source": "folders", "data__folder_A": "a", "data__folder_B": "b", "data__sha256": "0" * 64},
            ["data.sha256"],
        ),
        ({"data__source": "horse2zebra", "data__sha256": "0" * 64}, []),
        ({"data__source": "folders", "data__folder_A": "a", "data__folder_B": "b"}, []),
        ({"model__generator": "unet", "model__skip": "concat", "model__blocks": 3}, ["model.blocks", "model.skip"]),
        ({"model__discriminator": "pixel", "model__patch_layers": 2}, ["model.patch_layers"]),
        ({"train__adversarial_loss": "hinge", "train__label_smoothing": 0.1}, ["train.label_smoothing"]),
        ({"train__lr_policy": "constant", "train__lr_decay_start": 0.7}, ["train.lr_decay_start"]),
        ({"train__lr_policy": "constant", "train__lr_decay_start": None}, []),
        ({"train__plateau": PLATEAU["train__plateau"]}, ["train.plateau"]),
        ({"train__jit_compile": True, "train__deterministic": True}, ["train.jit_compile"]),
        ({}, []),
    ],
)
def test_keys_that_are_set_but_not_read(values: dict[str, Any], keys: list[str]) -> None:
    lines = validate(changed(**values)).without_effect
    assert [re.split("[: ]", line)[0] for line in lines] == keys
    assert all("has no effect with " in line and ("set it to" in line or "default" in line) for line in lines)


def test_a_plateau_is_accepted() -> None:
    assert validate(changed(**PLATEAU)).train.plateau.patience == 3


def test_the_reference_ways_to_prepare_images() -> None:
    ways = {
        "resize_and_crop": (72, 64, (64, 64)),
        "resize": ([64, 32], "whole", (64, 32)),
        "crop": ("original", 64, (64, 64)),
        "none": ("original", "whole", None),
    }
    for way, (load_size, crop_size, expected) in ways.items():
        params = validate(changed(data__load_size=load_size, train__crop_size=crop_size))
        assert params.training_size == expected, way


def test_a_missing_key_takes_its_default_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = copy.deepcopy(GOOD)
    del tree["train"]["epochs"], tree["train"]["loss_weights"]["identity"], tree["tracking"]
    file = tmp_path / "params.yaml"
    with file.open("w") as stream:
        YAML().dump(tree, stream)
    params = load(file)
    assert (params.train.epochs, params.train.loss_weights.identity.AtoB) == (200, 5.0)
    (line,) = [record.message for record in caplog.records]
    assert "5 keys are missing" in line
    assert "train.epochs = 200" in line
    assert "cyclegan params --write" in line


def test_defaults_are_valid() -> None:
    assert validate({}) == Params()


def test_files_that_are_generated_are_up_to_date() -> None:
    """The code is the only source of descriptions and defaults."""
    assert (ROOT / "docs" / "parameters.md").read_text() == parameters_page(Params())
    text = (ROOT / "params.yaml").read_text()
    assert text == yaml_text(load(ROOT / "params.yaml"), header_of(text))
    assert load(ROOT / "params.yaml") == validate(read(ROOT / "presets" / "quickstart.yaml"))


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_preset_holds_only_what_differs(preset: Path) -> None:
    defaults = dict(flatten(plain(Params())))
    values = dict(flatten(read(preset)))
    assert {key for key, value in values.items() if defaults[key] == value} <= {"data.source"}
    assert len(preset.read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (None, ["does not exist", "cyclegan preset quickstart"]),
        (b"", ["params.yaml", "data, model, search, train"]),
        (b"- 1\n", ["params.yaml", "data, model, search, train"]),
        (b"train: [", ["not valid YAML"]),
        (b"train: {}\ntrain: {}\n", ["not valid YAML"]),
        (b"\xff\xfe", ["UTF-8"]),
        (b"train: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
    ids=["no file", "empty", "a list", "broken", "key twice", "binary", "code"],
)
def test_files_that_are_no_parameters(tmp_path: Path, text: bytes | None, facts: list[str]) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(UserError) as caught:
        load(file)
    assert all(fact in str(caught.value) for fact in facts)
    assert "\n" not in str(caught.value)


def test_params_type_lists_all_sections() -> None:
    assert list(Params.model_fields) == list(GOOD)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=8)
    | st.sampled_from(["auto", "whole", "original", "linear", "unet", "folders", "https://x/y.zip", "file:", "0" * 64])
)
KEYS = st.text(max_size=8) | st.integers() | st.none() | st.sampled_from(["AtoB", "BtoA", "epochs", "metric"])
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def sections(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in nested mappings."""
    found = []
    for key, value in tree.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += sections(value, (*path, key))
    return found


def accepted_or_refused(tree: Any) -> None:
    try:
        params = validate(tree)
    except UserError as error:
        assert str(error)  # noqa: PT017 (either outcome is right)
        for line in str(error).splitlines():
            assert line.startswith("params.yaml")
            assert len(line) < 1000
    else:
        assert validate(params.model_dump()) == params
        assert params.data.dataset
        list(flatten(params.model_dump()))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sections(changed())), TREES), min_size=1, max_size=3))
def test_other_values_are_accepted_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    tree = changed()
    for (*parents, last), value in changes:
        section = tree
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[last] = value
    accepted_or_refused(tree)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sections(changed())), st.booleans(), KEYS)
def test_missing_and_other_keys_are_accepted_or_refused(path: tuple[Any, ...], remove: bool, key: Any) -> None:
    tree = changed()
    section = tree
    for parent in path[:-1]:
        section = section[parent]
    value = section.pop(path[-1]) if remove else section[path[-1]]
    section[key] = value
    accepted_or_refused(tree)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_any_tree_is_accepted_or_refused(tree: Any) -> None:
    accepted_or_refused(tree)


TEXT = (ROOT / "params.yaml").read_bytes()


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.binary(max_size=3)), max_size=5),
    cut=st.integers(0, len(TEXT)) | st.none(),
)
def test_any_corrupt_file_is_refused_in_one_message(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    raw = bytearray(TEXT)
    for where, content in changes:
        raw[where : where + len(content)] = content
    file = tmp_path_factory.mktemp("corrupt") / "params.yaml"
    file.write_bytes(raw[:cut])
    try:
        load(file)
    except UserError as error:
        assert "params.yaml" in str(error)  # noqa: PT017 (either outcome is right)
