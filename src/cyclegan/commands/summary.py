"""Command `summary`: print and draw the networks that params.yaml describes."""

from __future__ import annotations

import argparse
from pathlib import Path

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option for drawings."""
    parser.add_argument(
        "--draw", type=Path, metavar="FOLDER", help="also draw each network to FOLDER as PNG and SVG (needs graphviz)"
    )


def run(options: argparse.Namespace) -> None:
    """Print each network and both composite models, layer by layer.

    Raises:
        UserError: params.yaml is invalid, or the tools to draw are missing.
    """
    from cyclegan.experiment.networks import build_cyclegan
    from cyclegan.models.summary import draw, summary_text
    from cyclegan.params.overrides import effective

    model = build_cyclegan(effective(Project.find()).params)
    for network in (model.G_AtoB, model.G_BtoA, model.D_A, model.D_B, *model.composites.values()):
        print(summary_text(network))
        if options.draw:
            for kind in ("png", "svg"):
                draw(network, options.draw / f"{network.name}.{kind}")
