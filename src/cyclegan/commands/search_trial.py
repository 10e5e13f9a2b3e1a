"""Command `search trial`: one trial of a search, in a process of its own."""

from __future__ import annotations

import argparse

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the request comes on standard input."""


def run(_options: argparse.Namespace) -> None:
    """Run the trial of the request on standard input."""
    from cyclegan.experiment.trial import run as run_trial

    run_trial(Project.find())
