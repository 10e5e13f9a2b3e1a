"""The command line: the table of commands, and `main`.

Only the module of the chosen command is imported, and it imports what is heavy when it runs: `cyclegan --help` and
`cyclegan COMMAND --help` answer at once.
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
        module: brings `add_arguments(parser)` and `run(options)`; a stage of `dvc.yaml` brings `run(project)`.
        help: what the command does.
        needs_tensorflow: TensorFlow is imported, without its chatter, before the command runs.
        options: of a stage, what `run` takes beside the project; its module brings `add_arguments` then.
    """

    module: str
    help: str
    needs_tensorflow: bool = False
    options: tuple[str, ...] = ()

    @property
    def is_stage(self) -> bool:
        return self.module.startswith("stages.")


# A name of two words is a sub-command.
COMMANDS = {
    "fetch": Command("stages.fetch", "stage: bring the images into data/raw"),
    "split": Command("stages.split", "stage: decode the images once, split them, pack them into data/split"),
    "search": Command(
        "stages.search",
        "stage: try hyperparameters with Optuna, choose some for train, write reports/search",
        options=("workers", "storage"),
    ),
    "search worker": Command(
        "commands.search_worker", "run trials of a search that was started elsewhere, until it is done"
    ),
    "search trial": Command(
        "commands.search_trial", "run one trial; started by a worker (docs/search.md)", needs_tensorflow=True
    ),
    "train": Command(
        "stages.train", "stage: train both generators; resumes an interrupted training", needs_tensorflow=True
    ),
    "evaluate": Command(
        "stages.evaluate",
        "stage: measure both generators on the test split, write reports/evaluate",
        needs_tensorflow=True,
    ),
    "register": Command("stages.register", "stage: put both generators into the MLflow model registry"),
    "sync": Command("commands.sync", "deliver to MLflow what could not be recorded while it was unavailable"),
    "init": Command(
        "commands.init", "write a params.yaml that fits your own images and this machine", needs_tensorflow=True
    ),
    "doctor": Command(
        "commands.doctor", "check that this machine can run params.yaml, and how fast", needs_tensorflow=True
    ),
    "params": Command("commands.params", "check params.yaml and print every value"),
    "preset": Command("commands.preset", "write a complete preset over params.yaml and print what changes"),
    "summary": Command(
        "commands.summary", "print each network and composite model of params.yaml", needs_tensorflow=True
    ),
    "translate": Command("commands.translate", "translate image files with a generator", needs_tensorflow=True),
    "serve": Command(
        "commands.serve", "translate images over HTTP, with a page to drop them on", needs_tensorflow=True
    ),
    "export": Command(
        "commands.export", "write a generator for ONNX Runtime, LiteRT or TensorFlow", needs_tensorflow=True
    ),
    "registry": Command("commands.registry", "list the registered models, move the champion by hand"),
    "runs": Command("commands.runs", "compare the runs of an experiment in a table"),
    "import": Command(
        "commands.import_weights",
        "turn a network of PyTorch (.pth) or of Keras 2 with keras-contrib (.h5) into a .keras file",
        needs_tensorflow=True,
    ),
    "import-legacy": Command("commands.import_weights", "old name of import", needs_tensorflow=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 2 and one line on an error that the user can fix."""
    # Loading a model never runs pickled code, whatever imports MLflow first.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    _print_to_any_encoding()
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    if options.debug:
        # For the processes of a search, too.
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
    # Without the folders of images, which stage fetch checks itself: a machine that only trains has none.
    load_checked(project)
    _module(command).run(project, **{name: getattr(options, name) for name in command.options})


def _module(command: Command) -> Any:
    return import_module(f"cyclegan.{command.module}")


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; `command` is the name in the table."""
    top = argparse.ArgumentParser(
        prog="cyclegan", description="Unpaired image-to-image translation, tracked and reproducible."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {version('cyclegan')}")
    top.add_argument("--debug", action="store_true", help="show the traceback of every error (also: CYCLEGAN_DEBUG=1)")
    subparsers = {"": top.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    # No option of `top` takes a value.
    chosen = next((argument for argument in given if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        if second and first != chosen:
            continue
        parent = first if second else ""
        parser = subparsers[parent].add_parser(
            second or first, help=command.help, description=command.help[0].upper() + command.help[1:] + "."
        )
        # After the command, too; without a default, which would undo the one before it.
        parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.set_defaults(command=name)
        if first == chosen and (not command.is_stage or command.options):
            _module(command).add_arguments(parser)
        if any(other.startswith(f"{name} ") for other in COMMANDS):
            subparsers[name] = parser.add_subparsers(metavar="COMMAND")
    return top.parse_args(given)


def known_paths(given: Sequence[str]) -> list[Path]:
    """The project's folders, and the paths that the user named on the command line, in params.yaml or for MLflow."""
    known = [Path(argument) for argument in given if not argument.startswith("-")]
    # Without a project or with a params.yaml that cannot be read, these are all.
    with suppress(Exception):
        project = Project.find()
        known += [project.root, project.home]
        from cyclegan.params import flatten, read

        values = [str(value) for _, value in flatten(read(project.params))]
        for value in (*values, os.environ.get("MLFLOW_TRACKING_URI", "")):
            if value.startswith("sqlite:///"):
                # Beside a database lie its artifacts.
                known.append((project.home / value.removeprefix("sqlite:///")).parent)
            elif "/" in value and "://" not in value:
                known.append(project.home / value.removeprefix("file:"))
    return known


def _print_to_any_encoding() -> None:
    """Print `?` for a character that the terminal or the log does not have, such as ± in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        # Python has set other ways where they are needed, as for file names that are not valid UTF-8.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
