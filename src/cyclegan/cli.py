"""The command line: the table of commands, and `main`.

Only the module of the chosen command is imported, and it imports slow packages when it runs. So `cyclegan --help` and
`cyclegan COMMAND --help` are fast.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cyclegan.project import Project
from cyclegan.system.exits import DEBUG, exit_on_error
from cyclegan.system.messages import shown_messages


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Attributes:
        module: has `add_arguments(parser)` and `run(options)`; that of a stage of `dvc.yaml` has `run(project)`.
        help: one line for `--help`.
        needs_tensorflow: import TensorFlow before the command runs, without its log messages.
        options: names of further arguments of a stage's `run`; its module then has `add_arguments`.
    """

    module: str
    help: str
    needs_tensorflow: bool = False
    options: tuple[str, ...] = ()

    @property
    def is_stage(self) -> bool:
        """Whether the command is a stage of `dvc.yaml`."""
        return self.module.startswith("stages.")


# A name of two words is a subcommand.
COMMANDS = {
    "fetch": Command("stages.fetch", "stage: bring the images into data/raw"),
    "split": Command("stages.split", "stage: decode the images once, split them, pack them into data/split"),
    "search": Command(
        "stages.search",
        "stage: search hyperparameters for train with Optuna, write reports/search",
        options=("workers", "storage"),
    ),
    "search worker": Command(
        "commands.search_worker", "run trials of a search that another process has started, until it is done"
    ),
    "search trial": Command(
        "commands.search_trial", "run one trial; started by a worker (docs/search.md)", needs_tensorflow=True
    ),
    "train": Command(
        "stages.train", "stage: train both generators; resumes an interrupted training", needs_tensorflow=True
    ),
    "evaluate": Command(
        "stages.evaluate",
        "stage: evaluate both generators on the test split, write reports/evaluate",
        needs_tensorflow=True,
    ),
    "register": Command("stages.register", "stage: register both generators in the MLflow model registry"),
    "sync": Command("commands.sync", "deliver waiting records to MLflow, after it was unavailable or offline"),
    "init": Command(
        "commands.init", "write a params.yaml that fits your own images and this machine", needs_tensorflow=True
    ),
    "doctor": Command(
        "commands.doctor", "check that this machine can run params.yaml, and how fast", needs_tensorflow=True
    ),
    "params": Command("commands.params", "check params.yaml and print every value"),
    "preset": Command("commands.preset", "replace params.yaml by a preset and print the changes"),
    "summary": Command(
        "commands.summary", "print each network and composite model of params.yaml", needs_tensorflow=True
    ),
    "translate": Command("commands.translate", "translate image files with a generator", needs_tensorflow=True),
    "serve": Command(
        "commands.serve", "translate images over HTTP, with a web page for uploads", needs_tensorflow=True
    ),
    "export": Command(
        "commands.export", "export a generator to ONNX Runtime, LiteRT or TensorFlow", needs_tensorflow=True
    ),
    "registry": Command("commands.registry", "list the registered models, change the champion"),
    "runs": Command("commands.runs", "compare the runs of an experiment in a table"),
    "import": Command(
        "commands.import_weights",
        "convert a network of PyTorch (.pth) or of Keras 2 with keras-contrib (.h5) to a .keras file",
        needs_tensorflow=True,
    ),
    "import-legacy": Command("commands.import_weights", "old name of import", needs_tensorflow=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. An error that the user can fix prints one line and exits with code 2."""
    # Set this before MLflow is imported: loading a model must never run pickled code.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    _print_to_any_encoding()
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    if options.debug:
        # Pass the option on to the processes of a search.
        os.environ[DEBUG] = "1"
    with shown_messages(), exit_on_error(lambda: known_paths(given)):
        _run(COMMANDS[options.command], options)


def _run(command: Command, options: argparse.Namespace) -> None:
    if command.needs_tensorflow:
        from cyclegan.system.quiet_tensorflow import import_tensorflow

        import_tensorflow(fuse=False)
    if not command.is_stage:
        _module(command).run(options)
        return
    from cyclegan.commands.params import load_checked

    project = Project.find()
    # Stage fetch checks the folders of images itself. A machine that only trains does not have them.
    load_checked(project)
    _module(command).run(project, **{name: getattr(options, name) for name in command.options})


def _module(command: Command) -> Any:
    return import_module(f"cyclegan.{command.module}")


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. `command` of the result is the name in the table."""
    top = argparse.ArgumentParser(
        prog="cyclegan", description="Unpaired image-to-image translation, tracked and reproducible."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {version('cyclegan')}")
    top.add_argument("--debug", action="store_true", help="show the traceback of every error (also: CYCLEGAN_DEBUG=1)")
    subparsers = {"": top.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    # The first argument that is not an option is the command, because no option of `top` has a value.
    chosen = next((argument for argument in given if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        if second and first != chosen:
            continue
        parent = first if second else ""
        parser = subparsers[parent].add_parser(
            second or first, help=command.help, description=command.help[0].upper() + command.help[1:] + "."
        )
        # Accept --debug after the command too. A default here would override --debug before the command.
        parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.set_defaults(command=name)
        if first == chosen and (not command.is_stage or command.options):
            _module(command).add_arguments(parser)
        if any(other.startswith(f"{name} ") for other in COMMANDS):
            subparsers[name] = parser.add_subparsers(metavar="COMMAND")
    return top.parse_args(given)


def known_paths(given: Sequence[str]) -> list[Path]:
    """The project's folders, and the user's paths: on the command line, in params.yaml and in MLFLOW_TRACKING_URI."""
    known = [Path(argument) for argument in given if not argument.startswith("-")]
    # Continue without the other paths if there is no project, or params.yaml is invalid.
    with suppress(Exception):
        project = Project.find()
        known += [project.root, project.home]
        from cyclegan.params import flatten, read

        values = [str(value) for _, value in flatten(read(project.params))]
        for value in (*values, os.environ.get("MLFLOW_TRACKING_URI", "")):
            if value.startswith("sqlite:///"):
                # The artifacts are beside the database.
                known.append((project.home / value.removeprefix("sqlite:///")).parent)
            elif "/" in value and "://" not in value:
                known.append(project.home / value.removeprefix("file:"))
    return known


def _print_to_any_encoding() -> None:
    """Print `?` for a character that the encoding of the terminal or log lacks, such as ± in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        # Keep other error handlers of Python, such as that for file names that are not valid UTF-8.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
