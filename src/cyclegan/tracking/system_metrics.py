"""Series of CPU, memory and GPU metrics of the host."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mlflow import entities
from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from cyclegan.system.threads import in_background
from cyclegan.tracking.entries import MetricsEntry
from cyclegan.tracking.journal import Journal

PREFIX = "system/"
INTERVAL_SECONDS = 10.0

logger = logging.getLogger(__name__)


@contextmanager
def host_metrics(record: Callable[[int, Mapping[str, float]], None], first: int) -> Iterator[None]:
    """Record a point of each series every ten seconds, or at the interval that MLflow's own variable sets.

    MLflow's monitors measure. Its own thread is not used, because it queries the store at each point. Disk and network
    are left out: they would double the number of series.

    Args:
        record: receives step and metrics.
        first: the step of the first point.
    """
    monitors = _monitors()
    interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_SECONDS  # type: ignore[no-untyped-call]

    def sample(over: threading.Event) -> None:
        step = first
        while not over.is_set():
            for monitor in monitors:
                monitor.collect_metrics()  # type: ignore[no-untyped-call]
            if over.wait(interval):
                return
            metrics: dict[str, float] = {}
            for monitor in monitors:
                metrics |= monitor.aggregate_metrics()  # type: ignore[no-untyped-call]
                monitor.clear_metrics()  # type: ignore[no-untyped-call]
            try:
                record(step, {PREFIX + name: value for name, value in metrics.items()})
            except OSError as error:
                # The training fails on the same full disk, and reports it.
                logger.warning("no more host metrics: %s", error.strerror)
                return
            step += 1

    with in_background("host metrics", sample):
        yield


def next_host_step(run: entities.Run | None, journal: Journal) -> int:
    """The step of the next point. Host metrics have steps of their own, which a resumed run continues."""
    steps = [
        entry.step
        for entry in journal.all()
        if isinstance(entry, MetricsEntry) and any(key.startswith(PREFIX) for key in entry.values)
    ]
    if run is not None:
        steps += [metric.step for metric in run.data.to_proto().metrics if metric.key.startswith(PREFIX)]
    return max(steps, default=-1) + 1


def _monitors() -> list[BaseMetricsMonitor]:
    monitors: list[BaseMetricsMonitor] = [CPUMonitor()]  # type: ignore[no-untyped-call]
    try:
        monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
    except (ImportError, RuntimeError) as error:
        logger.debug("no GPU metrics: %s", error)
    return monitors
