"""The best evaluation's generators are what a training results in, however often it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from cyclegan.data.loading.pipeline import training_batches
from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.loop import train
from cyclegan.training.progress import Plan, Progress
from cyclegan.training.schedule import DecaySchedule
from cyclegan.training.selection import Selection

Make = Callable[..., CycleGAN]
# With the generators at each evaluation.
Trained = tuple[CycleGAN, Progress, list[list[np.ndarray]]]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 16, 16, 3)).astype(np.uint8)
KID = [0.5, 0.3, 0.2, 0.4, 0.6, 0.3]
"""What each evaluation of the trainings below measures: the third is the best."""


@pytest.fixture
def make_model(make_small_model: Make) -> Make:
    """Small networks: these tests are about what surrounds the step."""
    return make_small_model


def rows(**series: list[float]) -> list[dict[str, float]]:
    names = {name: f"val_{name}" for name in series}
    return [
        {names[name]: values[n] for name, values in series.items()} for n in range(len(next(iter(series.values()))))
    ]


def test_mean_of_both_directions_or_one_alone() -> None:
    measured = rows(**{"AtoB/kid": [3, 1, 2], "BtoA/kid": [1, 4, 1.5]})
    both = Selection("kid")
    assert [both.value(row) for row in measured] == [2, 2.5, 1.75]
    assert both.best(measured) == 2
    assert Selection("val_AtoB/kid").best(measured) == 1
    assert Selection("val_BtoA/kid").best(measured) == 0
    psnr = rows(**{"AtoB/pair_psnr": [20, 22, 22], "BtoA/pair_psnr": [20, 21, 21]})
    # Of equally good ones the first.
    assert Selection("pair_psnr").best(psnr) == 1


def test_which_way_is_better() -> None:
    assert [higher_is_better(name) for name in ("val_AtoB/kid", "cycle_l1", "pair_psnr", "val_BtoA/pair_ssim")] == [
        *(False, False, True, True)
    ]


def test_patience() -> None:
    values = [5.0, 3.0, 4.0, 3.0, 2.0, 2.5, 2.5]
    measured = [{"val_AtoB/kid": value} for value in values]
    patient = Selection("val_AtoB/kid", patience=2)
    ended = [patient.is_exhausted(measured[:n]) for n in range(len(values) + 1)]
    assert ended == [False, False, False, False, True, False, False, True]
    assert not any(Selection("val_AtoB/kid").is_exhausted(measured[:n]) for n in range(len(values) + 1))


def test_a_metric_that_is_not_measured_is_refused() -> None:
    Selection("kid").require({"val_AtoB/kid": 1, "val_BtoA/kid": 2})
    with pytest.raises(UserError, match=r"train\.select = 'kid'.*use last, or one of val_AtoB/kid"):
        Selection("kid").require(["val_AtoB/kid"])


def test_auto_takes_true_pairs_where_there_are_any() -> None:
    unpaired = ["val_AtoB/cycle_l1", "val_AtoB/kid", "val_BtoA/cycle_l1", "val_BtoA/kid"]
    assert Selection.of("auto", 3, unpaired) == Selection("kid", 3)
    assert Selection.of("auto", 3, [*unpaired, "val_AtoB/pair_psnr", "val_BtoA/pair_psnr"]) == Selection("pair_psnr", 3)
    assert Selection.of("last", None, unpaired) is None
    with pytest.raises(UserError, match=r"train\.select = 'auto': .* use last$"):
        Selection.of("auto", None, ["val_AtoB/cycle_l1", "val_BtoA/cycle_l1"])


class Silent:
    """Hears nothing, and breaks the training off where it is asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.stop_at:
            raise RuntimeError("pulled the plug")

    def log_image(self, step: int, key: str, image: np.ndarray) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...


def start(
    make_model: Make, folder: Path, selection: Selection | None, stop_at: int | None = None, every: float = 1e-9
) -> Trained:
    """Train up to 12 steps with an evaluation after every second one; also return the generators at each of them."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2, ema_decay=0.9, keep_best=selection is not None)
    model.compile(schedule=DecaySchedule(1e-3, 12, 1.0, "constant"))
    plan = Plan(
        epochs=6,
        steps_per_epoch=2,
        batch_size=1,
        log_every=2,
        evaluate_every=1,
        checkpoint_every=every,
        selection=selection,
    )
    checkpoints = CheckpointFolder(folder)
    progress = Progress.restore(checkpoints, model)
    seen: list[list[np.ndarray]] = []

    def validate() -> dict[str, float]:
        seen.append([w for generator in model.generators.values() for w in generator.get_weights()])
        return {f"val_{direction}/kid": KID[len(progress.validation)] for direction in ("AtoB", "BtoA")}

    train(
        model,
        lambda step: training_batches(*IMAGES, batch_size=1, crop_size=(16, 16), flip=True, seed=3, start_step=step),
        plan,
        progress,
        checkpoints,
        Silent(stop_at),
        validate=validate,
        samples=dict,
    )
    return model, progress, seen


def kept(model: CycleGAN) -> list[np.ndarray]:
    return [w for generator in model.kept_generators.values() for w in generator.get_weights()]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def whole(make_small_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training that nothing interrupted."""
    return start(make_small_model, tmp_path_factory.mktemp("whole"), Selection("kid"))


def test_the_best_generators_are_kept(make_model: Make, tmp_path: Path, whole: Trained) -> None:
    model, progress, seen = whole
    assert progress.step == 12
    assert len(seen) == 6
    assert [same(kept(model), generators) for generators in seen] == [n == 2 for n in range(6)]
    # Keeping them changes no step of the training.
    last, _, without = start(make_model, tmp_path, None)
    assert all(same(one, other) for one, other in zip(seen, without, strict=True))
    assert same(kept(last), without[-1])
    with pytest.raises(ValueError, match="keep_best=True"):
        last.keep()


@pytest.mark.parametrize(
    ("stop_at", "every"),
    [(8, 1e-9), *(pytest.param(n, every, marks=pytest.mark.slow) for n in (4, 6, 8, 12) for every in (1e-9, 60.0))],
)
def test_a_killed_training_keeps_the_same_generators(
    make_model: Make, tmp_path: Path, whole: Trained, stop_at: int, every: float
) -> None:
    expected, expected_progress, _ = whole
    with pytest.raises(RuntimeError, match="pulled the plug"):
        start(make_model, tmp_path, Selection("kid"), stop_at, every)
    resumed, progress, _ = start(make_model, tmp_path, Selection("kid"))
    assert progress.validation == expected_progress.validation
    for name, variable in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_ends_early_and_stays_ended(make_model: Make, tmp_path: Path) -> None:
    selection = Selection("kid", patience=2)
    model, progress, seen = start(make_model, tmp_path, selection, every=60.0)
    assert progress.step == 10
    assert [row["step"] for row in progress.losses] == [2, 4, 6, 8, 10]
    assert same(kept(model), seen[2])
    again, progress, seen = start(make_model, tmp_path, selection)
    assert (progress.step, seen) == (10, [])
    assert same(kept(again), kept(model))
