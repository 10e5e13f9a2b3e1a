"""Stage `evaluate`: measure the trained generators on the test split, once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS
from cyclegan.evaluation.color_map import fit_color_map
from cyclegan.evaluation.distributions import lack_for_kid
from cyclegan.evaluation.features import load_features
from cyclegan.evaluation.labels.transfer import METRICS, add_accuracies
from cyclegan.evaluation.protocol import Evaluation, RealImages, evaluate
from cyclegan.experiment.stage_outputs import generator_files, only_metrics, training_curves, training_images
from cyclegan.experiment.trained_run import TrainedRun
from cyclegan.metric_names import headline
from cyclegan.models.translator import Translator, load_generator
from cyclegan.params import Params, load
from cyclegan.project import Project
from cyclegan.report.confusion import write_confusions
from cyclegan.report.evaluation_report import draw, write_reports
from cyclegan.system.files import write_json
from cyclegan.tracking.provenance import tags

# Short names of the metrics in metrics.json: DVC's tables have a column for each, and fit into 160 characters.
SHORT_NAMES = {
    "pair_psnr": "psnr",
    "pair_ssim": "ssim",
    "kid": "kid",
    "kid_se": "kid_se",
    "cycle_l1": "cycle_l1",
    "transfer_accuracy": "acc",
}


def run(project: Project) -> None:
    """Write `reports/evaluate/` and log it to the training's MLflow run."""
    params = load(project.params)
    trained = TrainedRun.load(project)
    with trained.attached(project, params.tracking) as tracked:
        evaluation = measure(project, params, trained)
        tracked.log_metrics(trained.steps, headlines(evaluation.metrics))
        tracked.log_artifact(project.reports / "evaluate", "evaluate")
    lack = lack_for_kid(evaluation.metrics["protocol"]["counts"], "test")
    for direction in DIRECTIONS:
        metrics = evaluation.metrics[direction]
        names = ("kid", "kid_se", "pair_psnr", "pair_ssim", "pair_top1", *METRICS)
        printed = [f"{name} {metrics[name]:.4g}" for name in names if name in metrics]
        print(direction, params.data.domain_names.arrow(direction), *([lack] if lack else []), *printed, sep="  ")


def measure(project: Project, params: Params, trained: TrainedRun) -> Evaluation:
    """Measure on the test split and write `reports/evaluate/`."""
    dataset = PackedDataset.open(project.split)
    curves, over_time = training_curves(project), training_images(project)
    files = generator_files(project)
    translators = {
        direction: Translator(load_generator(file), dataset.bit_depth, params.evaluate.batch_size)
        for direction, file in files.items()
    }
    for direction, (source, target) in DIRECTIONS.items():
        translator = translators[direction]
        dataset.require_channels(
            "test",
            {source: translator.channels, target: translator.channels_out},
            claim=f"{files[direction]} maps {translator.channels} to {translator.channels_out} channels",
            remedy="train again ('dvc repro train')",
        )
    real = RealImages(
        dataset,
        "test",
        load_features(project.root / params.evaluate.features, params.evaluate.features_size),
        params.evaluate.batch_size,
    )
    maps = {direction: fit_color_map(dataset, "val", direction) for direction in DIRECTIONS}
    color_maps = {direction: fitted for direction, fitted in maps.items() if fitted is not None}
    evaluation = evaluate(translators, dataset, "test", real, color_maps)
    classes: list[str] = []
    if dataset.labels("A", "test") is not None:
        classes = add_accuracies(evaluation.metrics, translators, dataset, params.evaluate.classifier_steps)
    evaluation.metrics["checkpoint"] = trained.kept
    evaluation.metrics["protocol"]["md5"] = dataset.digest("test")
    folder = project.reports / "evaluate"
    write_json(folder / "metrics.json", main_metrics(evaluation.metrics))
    write_confusions(folder / "confusion", evaluation.metrics, classes, params.data.domain_names)
    write_reports(
        folder,
        evaluation,
        draw(translators, dataset, evaluation, params.evaluate.grid_images, params.data.domain_names),
        title=trained.dataset,
        run={
            "MLflow run": trained.run_id,
            "md5 of the data": trained.data_md5,
            "training": f"{trained.epochs} epochs, {trained.steps} steps",
            "training time": f"{trained.seconds / 60:.1f} minutes",
            "device": trained.device,
            "commit": tags(project).get("git.commit"),
        },
        history=pd.concat(curves, ignore_index=True),
        adversarial_loss=trained.adversarial_loss,
        over_time=over_time,
    )
    return evaluation


def main_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics that DVC's tables show: at most four per direction and two of the identity baseline, `base`.

    The identity baseline stands there once, because its PSNR and KID compare the same real images in both directions.
    Values have five decimals.

    Args:
        metrics: all metrics, as in `details.json`.
    """
    shown: dict[str, dict[str, float]] = {}
    for direction in DIRECTIONS:
        measured = metrics[direction]
        unneeded = {"pair_psnr": "cycle_l1", "transfer_accuracy": "pair_ssim"}
        names = set(SHORT_NAMES) - {less for name, less in unneeded.items() if name in measured}
        shown[direction] = _shortened(measured, names)
    shown["base"] = _shortened(metrics["AtoB"].get("identity", {}), {"pair_psnr", "kid"})
    return {part: values for part, values in shown.items() if values}


def _shortened(metrics: Mapping[str, Any], names: Collection[str]) -> dict[str, float]:
    """These metrics, as far as they exist, under their short names."""
    return {short: round(metrics[name], 5) for name, short in SHORT_NAMES.items() if name in metrics and name in names}


def headlines(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics for the MLflow run, such as `test_AtoB/pair_psnr` and `identity_AtoB/pair_psnr`.

    Per direction: one metric, the accuracies if there are labels, and both for the identity baseline. The run's files
    and the registered version have all metrics.
    """
    logged: dict[str, float] = {}
    for direction in DIRECTIONS:
        names = (headline(only_metrics(metrics[direction])), *METRICS)
        for prefix, values in (("test", metrics[direction]), ("identity", metrics[direction].get("identity", {}))):
            logged |= {f"{prefix}_{direction}/{name}": values[name] for name in names if name in values}
    return logged
