"""Command `runs`: the runs of an experiment as a table, for terminals without the UI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cyclegan.project import Project
from cyclegan.system.arguments import comma_separated
from cyclegan.system.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs and columns, in which order, and where to."""
    parser.add_argument("--experiment", metavar="NAME", help="default: the one in which this project's trainings are")
    parser.add_argument("--filter", default="", metavar="TEXT", help="in MLflow's words: params.`train.epochs` = '6'")
    parser.add_argument(
        "--columns",
        type=comma_separated,
        default=[],
        metavar="A,B,…",
        help="parameters, metrics and tags.… to show; default: the parameters that differ and the test's metrics",
    )
    parser.add_argument("--sort", metavar="COLUMN", help="best, or smallest, first; without it the newest is first")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--csv", metavar="FILE", help="write all digits as CSV; - to the terminal")


def run(options: argparse.Namespace) -> None:
    """Print the runs, newest first.

    Raises:
        UserError: no such experiment or column, or the filter cannot be read.
    """
    from cyclegan.commands.runs_table import chosen, comparison, find_runs, rendered, sorted_by
    from cyclegan.params import load
    from cyclegan.tracking.store import open_store

    project = Project.find()
    params = load(project.params)
    store = open_store(project, params.tracking)
    experiment = options.experiment or params.tracking.experiment or params.data.dataset
    table = comparison(find_runs(store, experiment, options.filter))
    names = chosen(table, options.columns)
    if options.sort is not None:
        table = sorted_by(table, options.sort)
    if options.reverse:
        table = table.iloc[::-1]
    if options.csv is None:
        print(rendered(table[names]))
        return
    text = table[names].to_csv(index=False)
    if options.csv == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(options.csv), text)
        print(f"{options.csv}: {len(table)} runs, {len(names)} columns")
