"""Command `registry`: list the registered models, and move the alias `champion` by hand."""

from __future__ import annotations

import argparse

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    actions.add_parser("list", help="list all models with their champions")
    show = actions.add_parser("show", help="show all versions of a model, or one version in full")
    show.add_argument("model", metavar="MODEL[@ALIAS|/VERSION]")
    promote = actions.add_parser("promote", help="make a version champion, regardless of its gate")
    promote.add_argument("model", metavar="MODEL")
    promote.add_argument("version", metavar="VERSION")
    rollback = actions.add_parser("rollback", help="make the previous champion the champion again")
    rollback.add_argument("model", metavar="MODEL")
    for action in (promote, rollback):
        action.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def run(options: argparse.Namespace) -> None:
    """Print models or versions, or change the champion.

    Raises:
        UserError: there is no such model, alias or version, or confirmation needs a terminal.
    """
    from cyclegan.commands.champion_by_hand import promote, rollback
    from cyclegan.params import load
    from cyclegan.registry.listing import format_details, format_models
    from cyclegan.tracking.store import open_store

    project = Project.find()
    store = open_store(project, load(project.params).tracking)
    if options.action == "list":
        print(format_models(store))
    elif options.action == "show":
        print(format_details(store, options.model))
    elif options.action == "promote":
        promote(store, options.model, options.version, options.yes)
    else:
        rollback(store, options.model, options.yes)
