"""Fixtures and reports for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from postgresql import PostgreSQL

# The command line sets it, too. Some tests run the command line in their own process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A shell may set an address of a store, and DVC sets the others for its stages.
for name in ("DVC_EXP_NAME", "DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

# A shell starts background jobs with Ctrl-C ignored, and nohup ignores the end of the terminal. Processes that the
# tests start and signal would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# The files that take longest, by their processor time. They start first, so that all workers end at about one time.
LONGEST = (
    "pipeline/test_whole_pipeline.py",
    "training/test_cyclegan.py",
    "pipeline/test_search.py",
    "training/test_loop.py",
    "training/test_tutorial_parity.py",
    "evaluation/test_transfer.py",
    "registry/test_versions.py",
    "models/test_generator.py",
    "training/test_random_configurations.py",
    "test_documentation.py",
    "pipeline/test_experiments.py",
)
LEFT_OUT = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis draws 50 examples a test, and 400 with `make test-all`, which deselects no mark."""
    settings.register_profile("few", max_examples=50)
    settings.register_profile("many", max_examples=400)
    settings.load_profile("few" if config.option.markexpr else "many")


@pytest.fixture
def within(record_property: Callable[[str, object], None]) -> Callable[[str, float, float], None]:
    """Assert that a deviation is within its tolerance, and record both for the table after the tests."""

    def check(what: str, deviation: float, tolerance: float) -> None:
        record_property("parity", [what, float(deviation), float(tolerance)])
        assert deviation <= tolerance, what

    return check


@pytest.fixture
def deterministic() -> None:
    """Make TensorFlow deterministic until the process ends, for tests that compare bits.

    Otherwise two graphs of one step differ in the last bit of a sum, because TensorFlow orders terms by name.
    """
    from cyclegan.training.device import prepare_device

    prepare_device(seed=0, deterministic=True)


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    """A database whose server is not running yet."""
    server = PostgreSQL()
    try:
        yield server
    finally:
        server.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the slow tests that are deselected."""
    if items:
        stash = items[0].config.stash
        stash[LEFT_OUT] = stash.get(LEFT_OUT, 0) + sum(item.get_closest_marker("slow") is not None for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the count to the process that prints. Only workers of pytest-xdist collect tests, each of them all tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the number of deselected slow tests, and the largest deviations from the references in all tests.

    The references are the tutorial, keras-contrib and the formulas.
    """
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} slow tests left out: make test-all")
    worst: dict[str, tuple[float, float]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "parity":
                    what, deviation, tolerance = value
                    worst[what] = max(worst.get(what, (0.0, tolerance)), (deviation, tolerance))
    if worst:
        terminalreporter.section("parity")
        for what, (deviation, tolerance) in sorted(worst.items()):
            terminalreporter.write_line(f"{what:<85} largest {deviation:8.1e}   tolerance {tolerance:8.1e}")
