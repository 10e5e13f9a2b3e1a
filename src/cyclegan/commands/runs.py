"""Command `runs`: the runs of an MLflow experiment as a table in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cyclegan.project import Project
from cyclegan.system.arguments import comma_separated
from cyclegan.system.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for runs, columns, order and output."""
    parser.add_argument(
        "--experiment", metavar="NAME", help="MLflow experiment; default: that of this project's trainings"
    )
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="filter of MLflow, such as: params.`train.epochs` = '6'"
    )
    parser.add_argument(
        "--columns",
        type=comma_separated,
        default=[],
        metavar="A,B,…",
        help="parameters, metrics and tags.… to show; default: parameters that differ, and test metrics",
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help="sort metrics best first, others smallest first; default: newest run first"
    )
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    parser.add_argument(
        "--link", metavar="SERVER", help="print the address of the table in MLflow's pages on SERVER, and nothing else"
    )
    parser.add_argument("--csv", metavar="FILE", help="write CSV with all digits; - for standard output")


def run(options: argparse.Namespace) -> None:
    """Print the runs, or write them as CSV.

    Raises:
        UserError: there is no such experiment or column, or the filter is invalid.
    """
    from cyclegan.commands.runs_table import (
        choose_columns,
        find_experiment,
        find_runs,
        format_table,
        make_table,
        sorted_by,
    )
    from cyclegan.params import load
    from cyclegan.tracking.runs_view import runs_address, save_runs_view
    from cyclegan.tracking.store import open_store

    project = Project.find()
    params = load(project.params)
    store = open_store(project, params.tracking)
    experiment = options.experiment or params.tracking.experiment or params.data.dataset
    if options.link is not None:
        experiment_id = find_experiment(store, experiment)
        save_runs_view(store, experiment_id)
        print(runs_address(options.link, experiment_id))
        return
    table = make_table(find_runs(store, experiment, options.filter))
    names = choose_columns(table, options.columns)
    if options.sort is not None:
        table = sorted_by(table, options.sort)
    if options.reverse:
        table = table.iloc[::-1]
    if options.csv is None:
        print(format_table(table[names]))
        return
    text = table[names].to_csv(index=False)
    if options.csv == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(options.csv), text)
        print(f"{options.csv}: {len(table)} runs, {len(names)} columns")
