"""The command line: one command for each stage, and a few for people. Thin: it finds the project and calls.

Nothing heavy is imported here, so that `cyclegan --help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cyclegan.system.errors import UserError, system_fault

if TYPE_CHECKING:
    from cyclegan.params import Params
    from cyclegan.project import Project

DEBUG = "CYCLEGAN_DEBUG"
"""Environment variable: the traceback of every error is shown, under dvc as well."""

Command = Callable[[argparse.Namespace], None]

STAGES = {
    "fetch": "bring the pictures into data/raw",
    "split": "decode them once, split them, pack them into data/split",
    "train": "train both generators; goes on where an interrupted training stopped",
    "evaluate": "measure both generators on the test split, write reports/evaluate",
    "register": "put both generators into the MLflow model registry",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 2 and one line on an error that the user can mend."""
    # Loading a model never runs pickled code, whatever imports MLflow first.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    _print_to_any_encoding()
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    if options.debug:
        # For the processes of a search, too.
        os.environ[DEBUG] = "1"
    try:
        if options.tensorflow:
            from cyclegan.system.quiet_tensorflow import import_tensorflow

            import_tensorflow(fuse=False)
        options.run(options)
    except UserError as error:
        _show_traceback()
        sys.exit(_fail(str(error), error.exit_code))
    except BrokenPipeError:
        # The reader of our output has gone, as in `cyclegan params | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        fault = system_fault(error, partial(_is_known, given))
        if fault is None:
            raise
        _show_traceback()
        sys.exit(_fail(fault, 2))
    except KeyboardInterrupt:
        _leave(_fail("interrupted", 128 + signal.SIGINT))
    except SystemExit as stop:
        if stop.code not in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
            raise
        _leave(int(stop.code))


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="cyclegan", description="Unpaired image-to-image translation, tracked and reproducible."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {version('cyclegan')}")
    top.add_argument("--debug", action="store_true", help="show the traceback of every error (also: CYCLEGAN_DEBUG=1)")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str, tensorflow: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        # After the command, too; without a default, which would undo the one before it.
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(run=run, tensorflow=tensorflow)
        return command

    for name, text in STAGES.items():
        add(name, _stage, f"stage: {text}", tensorflow=name in ("train", "evaluate")).set_defaults(stage=name)
    _add_search(add("search", _search, "stage: try settings with Optuna, choose one for train, write reports/search"))
    add("sync", _stage, "deliver to MLflow what could not be recorded while it was away").set_defaults(stage="sync")
    add("params", _params, "check params.yaml and print every value")
    preset = add("preset", _preset, "write a complete preset over params.yaml and print what changes")
    preset.add_argument("name", metavar="NAME", help="a file of presets/ without .yaml; 'list' lists them")
    summary = add(
        "summary",
        _summary,
        "print each network of params.yaml and both composite models, layer by layer",
        tensorflow=True,
    )
    summary.add_argument(
        "--draw", type=Path, metavar="FOLDER", help="also draw each to FOLDER as PNG and SVG (needs graphviz)"
    )
    translate = add("translate", _translate, "translate picture files with a generator", tensorflow=True)
    translate.add_argument(
        "model", help="a .keras file, or a registered model such as models:/fluent-emoji-AtoB@challenger"
    )
    translate.add_argument(
        "inputs", nargs="+", type=Path, metavar="PICTURE", help="picture files, or folders, sub-folders included"
    )
    translate.add_argument("--output", "-o", type=Path, required=True, metavar="FOLDER", help="where the PNG files go")
    translate.add_argument("--overwrite", action="store_true", help="replace files that exist in FOLDER")
    serve = add("serve", _serve, "translate pictures over HTTP, with a page to drop them on", tensorflow=True)
    serve.add_argument("model", help="as for translate")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    text = "host names of a reverse proxy in front of the server, as in a request's Host or Origin header"
    serve.add_argument("--allowed-hosts", default="", metavar="A,B,…", help=text)
    for unit, default in (("megabytes", 20), ("megapixels", 4)):
        text = f"larger pictures are refused (default: {default})"
        serve.add_argument(f"--max-{unit}", type=float, default=default, metavar="N", help=text)
    for command in (translate, serve):
        # No default: whoever gives one for a registered model, which knows its own, is told so.
        text = "of the pictures, for a .keras file of data.bit_depth: 16 (default: 8)"
        command.add_argument("--bit-depth", type=int, choices=(8, 16), help=text)
    registry = add("registry", _registry, "look at the registered models, move the champion by hand")
    actions = registry.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    actions.add_parser("list", help="all models with their champions")
    show = actions.add_parser("show", help="all versions of a model, or one version in full")
    show.add_argument("model", metavar="MODEL[@ALIAS|/VERSION]")
    promote = actions.add_parser("promote", help="make a version champion, whatever the gate says")
    promote.add_argument("model", metavar="MODEL")
    promote.add_argument("version", metavar="VERSION")
    rollback = actions.add_parser("rollback", help="make the champion before this one champion again")
    rollback.add_argument("model", metavar="MODEL")
    for action in (promote, rollback):
        action.add_argument("--yes", action="store_true", help="do not ask")
    runs = add("runs", _runs, "compare the runs of an experiment in a table")
    runs.add_argument("--experiment", metavar="NAME", help="default: the one in which this project's trainings are")
    runs.add_argument("--filter", default="", metavar="TEXT", help="in MLflow's words: params.`train.epochs` = '6'")
    runs.add_argument("--columns", default="", metavar="A,B,…", help="parameters, metrics and tags.… to show")
    runs.add_argument("--sort", metavar="COLUMN", help="best, or smallest, first; without it the newest is first")
    runs.add_argument("--reverse", action="store_true", help="the other way round")
    runs.add_argument("--csv", metavar="FILE", help="write all digits as CSV; - to the terminal")
    legacy = add(
        "import-legacy",
        _import_legacy,
        "turn a generator saved by Keras 2 and keras-contrib (.h5) into a .keras file",
        tensorflow=True,
    )
    legacy.add_argument("file", type=Path, metavar="FILE.h5")
    legacy.add_argument("--output", "-o", type=Path, required=True, metavar="FILE.keras", help="must not exist")
    return top


def _add_search(search: argparse.ArgumentParser) -> None:
    storage = "data base that holds the study; in place of search.storage"
    search.add_argument("--workers", type=_count, metavar="N", help="trials at once; in place of search.workers")
    search.add_argument("--storage", metavar="URL", help=storage)
    parts = search.add_subparsers(metavar="COMMAND", dest="part")
    worker = parts.add_parser("worker", help="run trials of a search that was started elsewhere, until it is done")
    worker.add_argument("--storage", metavar="URL", help=storage)
    worker.add_argument("--threads", type=_count, metavar="N", help="processor threads for each trial; default: all")
    worker.add_argument("--supervised", action="store_true", help="end when standard input closes")
    worker.set_defaults(run=_search_worker)
    trial = parts.add_parser("trial", help="run one trial; started by a worker (docs/search.md)")
    trial.set_defaults(run=_search_trial, tensorflow=True)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _search(options: argparse.Namespace) -> None:
    from cyclegan.project import Project
    from cyclegan.stages.search import run

    run(Project.find(), options.workers, options.storage)


def _search_worker(options: argparse.Namespace) -> None:
    from cyclegan.project import Project
    from cyclegan.stages.search import work

    work(Project.find(), options.storage, options.threads, options.supervised)


def _search_trial(_options: argparse.Namespace) -> None:
    from cyclegan.experiment.trial import run
    from cyclegan.project import Project

    run(Project.find())


def _stage(options: argparse.Namespace) -> None:
    from importlib import import_module

    from cyclegan.project import Project

    project = Project.find()
    # Without the folders, which stage fetch checks itself: a machine that only trains has none.
    _checked(project)
    import_module(f"cyclegan.stages.{options.stage}").run(project)


def _checked(project: Project) -> Params:
    """All of params.yaml, with the search that it asks for.

    Raises:
        UserError: something in it is wrong, of whatever stage.
    """
    from cyclegan.params import load

    params = load(project.params)
    if params.search.trials:
        from cyclegan.search.space import dimensions

        dimensions(params)
    return params


def _params(_options: argparse.Namespace) -> None:
    from cyclegan.params import flatten
    from cyclegan.project import Project
    from cyclegan.system.credentials import shown_parameter

    project = Project.find()
    params = _checked(project)
    if params.data.source == "folders":
        from cyclegan.data.fetching.raw_folder import picture_folders

        picture_folders(params.data, project)
    for warning in params.data.without_effect:
        print(f"cyclegan: {warning}", file=sys.stderr)
    for key, value in flatten(params.model_dump()):
        print(f"{key} = {shown_parameter(key, value)}")


def _preset(options: argparse.Namespace) -> None:
    from cyclegan.params.presets import apply_preset, preset_names
    from cyclegan.project import Project

    project = Project.find()
    print("\n".join(preset_names(project) if options.name == "list" else apply_preset(project, options.name)))


def _summary(options: argparse.Namespace) -> None:
    from cyclegan.experiment.networks import build_cyclegan
    from cyclegan.params.overrides import effective
    from cyclegan.project import Project

    params = effective(Project.find()).params
    from cyclegan.models.summary import draw, summary_text

    model = build_cyclegan(params)
    for network in (model.G_AtoB, model.G_BtoA, model.D_A, model.D_B, *model.composites.values()):
        print(summary_text(network))
        if options.draw:
            for kind in ("png", "svg"):
                draw(network, options.draw / f"{network.name}.{kind}")


def _translate(options: argparse.Namespace) -> None:
    from cyclegan.commands.translate import run

    run(options.model, options.inputs, options.output, options.overwrite, options.bit_depth)


def _serve(options: argparse.Namespace) -> None:
    from cyclegan.commands.serve import run

    limits = (options.max_megabytes, options.max_megapixels)
    names = [name.strip() for name in options.allowed_hosts.split(",") if name.strip()]
    run(options.model, options.host, options.port, *limits, options.bit_depth, names)


def _registry(options: argparse.Namespace) -> None:
    from cyclegan.commands import registry

    if options.action == "promote":
        registry.promote(options.model, options.version, options.yes)
    elif options.action == "rollback":
        registry.rollback(options.model, options.yes)
    else:
        registry.show(options.model if options.action == "show" else None)


def _runs(options: argparse.Namespace) -> None:
    from cyclegan.commands.runs import run

    columns = [name.strip() for name in options.columns.split(",") if name.strip()]
    run(options.experiment, options.filter, columns, options.sort, options.reverse, options.csv)


def _import_legacy(options: argparse.Namespace) -> None:
    if options.output.suffix != ".keras":
        raise UserError(f"--output {options.output}: must end in .keras")
    if options.output.exists():
        raise UserError(f"--output {options.output} exists; name a new file")
    from cyclegan.models.legacy.keras_contrib import load_legacy_generator
    from cyclegan.system.files import replacing

    generator = load_legacy_generator(options.file)
    with replacing(options.output) as temporary:
        generator.save(temporary)
    print(f"{options.output}: {generator.count_params():,} parameters")


def _print_to_any_encoding() -> None:
    """Print `?` for a character that the terminal or the log does not have, such as ± in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        # Python has set other ways where they are needed, as for file names that are not valid UTF-8.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _show_traceback() -> None:
    """Print the traceback of the error that is being handled, where the user has asked for it."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exc()


def _is_known(arguments: Sequence[str], path: str) -> bool:
    """Whether a path belongs to the project, or to one that the user named on the command line or in params.yaml."""
    from cyclegan.project import Project

    named = [Path.cwd() / argument for argument in arguments if not argument.startswith("-")]
    with suppress(Exception):
        project = Project.find()
        named += [project.root, project.home]
        from cyclegan.params import flatten, read

        values = [str(value) for _, value in flatten(read(project.params))]
        values.append(os.environ.get("MLFLOW_TRACKING_URI", ""))
        # Beside a database lie its artifacts.
        named += [
            (project.home / value.removeprefix("sqlite:///")).parent
            for value in values
            if value.startswith("sqlite:///")
        ]
        named += [project.home / value.removeprefix("file:") for value in values if "/" in value and "://" not in value]
    place, known = Path.cwd() / path, [Path(os.path.abspath(one)) for one in named]
    # What could not be created may be a folder above the one that was named.
    return any(place.is_relative_to(one) or one.is_relative_to(place) for one in known)


def _leave(code: int) -> NoReturn:
    """End a process that a signal has stopped. All is saved and closed by now."""
    if "tensorflow" not in sys.modules:
        sys.exit(code)
    # Taking TensorFlow down takes seconds, on a busy machine more than whoever sent the signal waits.
    # A closed terminal takes no more text.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _fail(message: str, code: int) -> int:
    print(f"cyclegan: {message}", file=sys.stderr)
    return code
