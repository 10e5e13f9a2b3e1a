"""Command `search trial`: one trial of a search, in a process of its own."""

from __future__ import annotations

import argparse

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none: a worker describes the trial on standard input."""


def run(_options: argparse.Namespace) -> None:
    """Run the trial that standard input describes."""
    from cyclegan.experiment.trial import run as run_trial

    run_trial(Project.find())
