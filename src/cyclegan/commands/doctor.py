"""Command `doctor`: check that this machine can run the pipeline, before a training of days."""

from __future__ import annotations

import argparse
import sys

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_options: argparse.Namespace) -> None:
    """Print one line for each check; exit with 1 if one fails."""
    from cyclegan.advice.health import run_checks

    failed = []
    for check in run_checks(Project.find()):
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<11}  {check.text}", flush=True)
        failed += [] if check.ok else [check.name]
    if failed:
        print(f"failed: {', '.join(failed)}")
        sys.exit(1)
    print("all checks passed")
