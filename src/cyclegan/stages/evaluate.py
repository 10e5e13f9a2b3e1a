"""Stage `evaluate`: measure the trained generators on the test split, once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, DOMAINS, Direction
from cyclegan.evaluation.color_map import fit_color_map
from cyclegan.evaluation.distributions import lack_for_kid
from cyclegan.evaluation.features import load_features
from cyclegan.evaluation.labels.transfer import METRICS, add_accuracies
from cyclegan.evaluation.protocol import Evaluation, RealImages, evaluate
from cyclegan.experiment.run_page import log_result, result_page
from cyclegan.experiment.stage_outputs import generator_files, training_curves, training_images
from cyclegan.experiment.trained_run import TrainedRun
from cyclegan.models.translator import Translator, load_generator
from cyclegan.params import Params, load
from cyclegan.project import Project
from cyclegan.report.evaluation_report import draw, write_reports
from cyclegan.system.files import write_json
from cyclegan.system.progress_bar import progress_bar
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.series import MAIN_METRICS

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
        evaluation = measure(project, params, trained, tracked.url)
        # The points of each series are the identity baseline, at step 0, and the generator.
        tracked.log_rows([(0, baselines(evaluation.metrics)), (trained.steps, headlines(evaluation.metrics))])
        tracked.log_artifact(project.reports / "evaluate", "evaluate")
        log_result(tracked, project, result_page(params, trained, evaluation.metrics))
    lack = lack_for_kid(evaluation.metrics["protocol"]["counts"], "test")
    for direction in DIRECTIONS:
        metrics = evaluation.metrics[direction]
        names = ("kid", "kid_se", "pair_psnr", "pair_ssim", "pair_top1", *METRICS)
        printed = [f"{name} {metrics[name]:.4g}" for name in names if name in metrics]
        print(params.data.domain_names.arrow(direction), *([lack] if lack else []), *printed, sep="  ")
    print("report: reports/evaluate/report.html")


def measure(project: Project, params: Params, trained: TrainedRun, run_url: str | None = None) -> Evaluation:
    """Measure on the test split and write `reports/evaluate/`, with a link to the MLflow run."""
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
    with _shown_progress(translators, dataset):
        evaluation = evaluate(translators, dataset, "test", real, color_maps)
    if dataset.labels("A", "test") is not None:
        add_accuracies(evaluation.metrics, translators, dataset, params.evaluate.classifier_steps)
    evaluation.metrics["checkpoint"] = trained.kept
    evaluation.metrics["protocol"]["md5"] = dataset.digest("test")
    folder, names = project.reports / "evaluate", params.data.domain_names
    write_json(folder / "metrics.json", main_metrics(evaluation.metrics))
    write_reports(
        folder,
        evaluation,
        draw(translators, dataset, evaluation, params.evaluate.grid_images, names),
        title=trained.dataset,
        run={
            "MLflow run": trained.run_id,
            "md5 of the data": trained.data_md5,
            "training": f"{trained.epochs} epochs, {trained.steps} steps",
            "training time": f"{trained.seconds / 60:.1f} minutes",
            "device": trained.device,
            "commit": tags(project).get("git.commit"),
        },
        run_url=run_url,
        names=names,
        history=pd.concat(curves, ignore_index=True),
        adversarial_loss=trained.adversarial_loss,
        over_time=over_time,
    )
    return evaluation


@contextmanager
def _shown_progress(translators: Mapping[Direction, Translator], dataset: PackedDataset) -> Iterator[None]:
    """Show the progress of `evaluate` and the time left."""
    counts = [len(dataset.images(domain, "test")) for domain in DOMAINS]
    comparable = all(translator.channels == translator.channels_out for translator in translators.values())
    # Each image goes there and back and, if the channels are equal, through the generator of its own domain.
    with progress_bar("measuring", sum(counts) * (3 if comparable else 2), "translation") as bar, ExitStack() as stack:
        for translator in translators.values():
            stack.enter_context(translator.reporting(bar.update))
        yield


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
    """The main metrics of both directions, as series of the MLflow run: `test_AtoB/pair_psnr`, `test_BtoA/kid`."""
    named = {}
    for direction in DIRECTIONS:
        names = [name for name in MAIN_METRICS if name in metrics[direction]]
        # The cycle error has no baseline. It is for data that allows no other metric.
        for name in names if names == ["cycle_l1"] else [name for name in names if name != "cycle_l1"]:
            named[f"test_{direction}/{name}"] = metrics[direction][name]
    return named


def baselines(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The same metrics of the identity baseline, as far as it has them."""
    return headlines({direction: metrics[direction].get("identity", {}) for direction in DIRECTIONS})
