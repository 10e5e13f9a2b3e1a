"""Command `init`: write a params.yaml that fits a user's own images, this device and a time."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cyclegan.project import Project
from cyclegan.system.arguments import positive_number
from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from cyclegan.advice.findings import Findings
    from cyclegan.advice.inspection import Inspection
    from cyclegan.advice.proposal import Proposal

DEFAULT_MINUTES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The images, the time, and what the user wants otherwise."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="PATH", help="two folders of images, or one zip or tar archive"
    )
    parser.add_argument("--name", help="name of the MLflow experiment and of the models; default: the folders' names")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="N", help=f"time for 'dvc repro' (default: {DEFAULT_MINUTES})")
    length.add_argument("--epochs", type=positive_number, metavar="N", help="passes over the larger domain instead")
    parser.add_argument(
        "--size", type=positive_number, metavar="N", help="pixels of the training images; default: as the time allows"
    )
    parser.add_argument(
        "--yes", action="store_true", help="overwrite a params.yaml with changes that git does not have"
    )


def run(options: argparse.Namespace) -> None:
    """Inspect the images, time training steps, write `params.yaml` and `reports/data.png`, and print why.

    Raises:
        UserError: the images cannot be trained on, the time is too short, or stdin is not a terminal to ask on.
    """
    from cyclegan.advice.proposal import measure_findings, propose
    from cyclegan.advice.schedule import Budget

    project = Project.find()
    minutes = options.minutes if options.epochs or options.minutes is not None else DEFAULT_MINUTES
    _refuse_numbers(minutes, options.size)
    if not options.yes:
        _ask(project)

    with _inspected(options.images, project) as (inspection, source):
        findings = measure_findings(inspection, project)
        _print_findings(inspection, findings)
        print(f"timing steps on {findings.device}{_busy()}")
        proposal = propose(
            inspection,
            findings,
            source | ({"data.name": options.name} if options.name else {}),
            Budget(minutes, options.epochs),
            options.size,
            on_timed=lambda candidate, cost: print(
                f"  {candidate.size} pixels, {candidate.filters} filters: {cost.seconds:.3f} s a step, {cost.memory}"
            ),
        )
        _write(project, proposal, inspection)
    _print_proposal(proposal)


def _refuse_numbers(minutes: float | None, size: int | None) -> None:
    if minutes is not None and not 0 < minutes < 1e6:
        raise UserError(f"--minutes {minutes:g}: must be above 0")
    if size is not None and (size % 16 or size > 1024):
        nearest = min(1024, max(16, size // 16 * 16))
        raise UserError(f"--size {size}: must be a multiple of 16, at most 1024; use {nearest}")


def _ask(project: Project) -> None:
    """Ask before values are lost that git does not have.

    Raises:
        UserError: stdin is not a terminal.
        SystemExit: the user declined.
    """
    from cyclegan.tracking.provenance import is_unchanged

    if not project.params.exists() or is_unchanged(project, "params.yaml"):
        return
    if not sys.stdin.isatty():
        raise UserError(
            "params.yaml: has values that git does not have, and stdin is not a terminal; commit them, or pass --yes"
        )
    if input("params.yaml has values that git does not have. Overwrite it? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was changed")
        sys.exit(1)


@contextmanager
def _inspected(images: list[Path], project: Project) -> Iterator[tuple[Inspection, dict[str, Any]]]:
    """The images, and the keys of params.yaml that name them.

    Raises:
        UserError: they are not two folders or one archive, or cannot be trained on.
    """
    from cyclegan.advice.inspection import inspect_archive, inspect_folders
    from cyclegan.params import validate

    if len(images) == 1 and images[0].is_file():
        source = _archive_source(images[0], project)
        with inspect_archive(images[0]) as inspection:
            yield inspection, source
    elif len(images) == 2:
        source = {"data.source": "folders"}
        for key, folder in zip(("folder_A", "folder_B"), images, strict=True):
            source[f"data.{key}"] = _named(folder, project)
        # With a name: one that follows from the folders is checked when all is known.
        data = validate({"data": {key[5:]: value for key, value in source.items()} | {"name": "any"}}).data
        yield inspect_folders(data, project), dict(source)
    elif len(images) == 1:
        what = "is a folder" if images[0].is_dir() else "does not exist"
        raise UserError(f"{images[0]}: {what}; name two folders of images, or one zip or tar archive")
    else:
        raise UserError(f"{len(images)} paths: too many; name two folders of images, or one zip or tar archive")


def _named(path: Path, project: Project) -> str:
    """As params.yaml names it: relative inside the project, absolute elsewhere."""
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(project.root).as_posix() if absolute.is_relative_to(project.root) else str(absolute)


def _archive_source(archive: Path, project: Project) -> dict[str, Any]:
    from cyclegan.data.fetching.download import check_sum

    named = quote(_named(archive, project))
    return {
        "data.source": f"file://{named}" if named.startswith("/") else f"file:{named}",
        "data.sha256": check_sum(archive, None, ""),
    }


def _write(project: Project, proposal: Proposal, inspection: Inspection) -> None:
    from PIL import Image

    from cyclegan.advice.proposal import contact_sheet
    from cyclegan.params.presets import write_params
    from cyclegan.system.files import replacing

    command = shlex.join(["cyclegan", *sys.argv[1:]]) if sys.argv[1:2] == ["init"] else "cyclegan init"
    header = f"Written by: {command}\nExpected: {_expected(proposal)}"
    with replacing(project.reports / "data.png") as temporary:
        Image.fromarray(contact_sheet(inspection, ("domain A", "domain B"))).save(temporary)
    write_params(project.params, proposal.params, header)


def _print_findings(inspection: Inspection, findings: Findings) -> None:
    from cyclegan.advice.inspection import NAMES_SHOWN

    for domain, facts in inspection.domains.items():
        print(f"{domain}: {facts.line}")
        for name, reason in list((facts.unreadable or {}).items())[:NAMES_SHOWN]:
            print(f"   {name}: {reason}")
    if inspection.in_both:
        print(f"{inspection.in_both} images are in both domains; remove them from one")
    print(f"domains: {'close' if findings.is_close else 'distant'}, KID {findings.distance:.2f} between samples")


def _busy() -> str:
    """A warning where other processes use the processor."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"; the machine is busy (load {load:.1f}), which makes the times too long" if load > 1.5 * cores else ""


def _text(value: Any) -> str:
    """A parameter's value in the words of YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_proposal(proposal: Proposal) -> None:
    lines = [f"{choice.key} = {_text(choice.value)}" for choice in proposal.choices]
    width = max(map(len, lines))
    print()
    for line, choice in zip(lines, proposal.choices, strict=True):
        print(f"{line:<{width}}  {choice.reason}")
    print("paper: Zhu et al. 2017; rows and horse2zebra: docs/notes/results.md")
    print()
    print(f"expected: {_expected(proposal)}")
    print("written: params.yaml, reports/data.png (a sample of both domains)")
    print("next: dvc repro, then make ui")


def _expected(proposal: Proposal) -> str:
    schedule = proposal.schedule
    return (
        f"dvc repro takes {_minutes(schedule.total_seconds)}, {_minutes(schedule.train_seconds)} of them training "
        f"({schedule.steps:,} steps of {proposal.cost.seconds:.3f} s); memory {proposal.cost.memory}"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
