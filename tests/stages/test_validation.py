"""The metrics that a plateau and a selection may use are those of the validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.data.packing.pack import split
from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.evaluation.protocol import RealImages
from cyclegan.evaluation.validation_series import validation_series
from cyclegan.experiment.networks import build_cyclegan
from cyclegan.experiment.plan import training_plan, with_possible_selection
from cyclegan.experiment.samples import samples
from cyclegan.experiment.session import Session
from cyclegan.experiment.validation import validation_metrics
from cyclegan.models.translator import Translator
from cyclegan.params import read
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.selection import Selection
from tiny import packed, paint, tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def features() -> FeatureNetwork:
    return load_features(ROOT / "data/features/efficientnet-lite0.npz", 32)


@pytest.mark.parametrize(
    ("paired", "channels_A", "kinds"),
    [
        (True, 3, {"cycle_l1", "identity_l1", "kid", "pair_psnr", "pair_ssim"}),
        (False, 3, {"cycle_l1", "identity_l1", "kid"}),
        (True, 1, {"cycle_l1", "kid", "pair_psnr", "pair_ssim"}),
    ],
    ids=["pairs", "no pairs", "unequal channels"],
)
def test_series_are_known_before_training(
    tmp_path: Path, paired: bool, channels_A: int, kinds: set[str], features: FeatureNetwork
) -> None:
    plateau = {"metric": "val_BtoA/identity_ssim", "patience": 1, "factor": 0.5}
    weights = read(ROOT / "params.yaml")["train"]["loss_weights"] | {"identity": 0.0}
    params = tiny(data={"channels_A": channels_A}, train={"plateau": plateau, "loss_weights": weights})
    dataset = packed(tmp_path, params, paired)
    model = build_cyclegan(params)
    translators = {direction: Translator(generator) for direction, generator in model.generators.items()}
    series = validation_series(dataset)
    assert set(series) == set(validation_metrics(translators, dataset, RealImages(dataset, "val", features)))
    assert {name.partition("/")[2] for name in series} == kinds

    with pytest.raises(UserError) as refused:
        training_plan(params, dataset)
    assert str(refused.value).startswith("train.plateau.metric = 'val_BtoA/identity_ssim': ")
    assert all(name in str(refused.value) for name in series)
    known = tiny(train={"plateau": plateau | {"metric": series[0]}})
    assert training_plan(known, dataset).plateau.patience == 1


def test_batch_size_bounds_the_feature_networks_batches_too(tmp_path: Path) -> None:
    params = tiny(train={"lr_policy": "constant"}, evaluate={"batch_size": 2})
    dataset = packed(tmp_path, params, paired=False)
    sizes = []

    def run(images: tf.Tensor) -> tf.Tensor:
        sizes.append(len(images))
        return tf.zeros((len(images), 4))

    features = FeatureNetwork("counting", 4, "0", run)
    session = Session.prepare(params, dataset, CheckpointFolder(tmp_path / "work"), features)
    validation_metrics(session.translators, dataset, session.real)
    # Three images of each domain, real and translated.
    assert sizes.count(2) == sizes.count(1) == 4
    assert max(sizes) == 2


def test_the_metric_of_the_selection_is_checked_before_training(tmp_path: Path) -> None:
    params = tiny(train={"lr_policy": "constant", "select": "pair_ssim"})
    dataset = packed(tmp_path, params, paired=False)
    with pytest.raises(UserError, match=r"train\.select = 'pair_ssim'.*use last, or one of .*val_BtoA/kid"):
        training_plan(params, dataset)
    assert training_plan(tiny(train={"lr_policy": "constant", "select": "auto"}), dataset).selection == Selection("kid")
    chosen = training_plan(tiny(train={"lr_policy": "constant", "select": "kid", "early_stop": 4}), dataset)
    assert chosen.selection == Selection("kid", 4)
    assert training_plan(tiny(train={"lr_policy": "constant", "select": "last"}), dataset).selection is None


def test_auto_keeps_the_last_generators_where_one_validation_image_gives_no_metric(
    tmp_path: Path, features: FeatureNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(root=tmp_path, home=tmp_path)
    paint(project)
    for n in (1, 2):
        (project.raw / f"valB/{n}.png").unlink()
    params = tiny(train={"lr_policy": "constant", "select": "auto"})
    split(params.data, project)
    dataset = PackedDataset.open(project.split)
    session = Session.prepare(params, dataset, CheckpointFolder(tmp_path / "checkpoints"), features)
    assert "1 val image: no KID (needs 2), so train.select: auto keeps the last" in capsys.readouterr().out
    assert session.plan.selection is None
    # The kept generators are the trained ones, not an earlier copy.
    assert session.model.kept_generators == session.model.generators

    patient = tiny(train={"lr_policy": "constant", "select": "auto", "early_stop": 3})
    with pytest.raises(UserError, match=r"train.early_stop = 3: has no metric .*1 val image: no KID .* set it to null"):
        with_possible_selection(patient, dataset)


def test_sample_grids_have_sample_images_rows(tmp_path: Path) -> None:
    params = tiny(train={"lr_policy": "constant"})
    dataset = packed(tmp_path, params, paired=False)
    translators = {name: Translator(generator) for name, generator in build_cyclegan(params).generators.items()}
    heights = {}
    for count in (1, 2, 3, 9):
        sampled = samples(translators, dataset, count)
        assert set(sampled) == {"AtoB", "BtoA"}
        (heights[count],) = {
            len(sample.grid(direction, params.data.domain_names)) for direction, sample in sampled.items()
        }
    # Headings, images enlarged eightfold, and four white pixels between the rows; the split holds three images.
    assert heights == {1: 24 + 128, 2: 24 + 260, 3: 24 + 392, 9: 24 + 392}
