"""The page of stage `register`: the verdict of the gate on both generators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclegan.domains import PLAIN_NAMES, DomainNames
from cyclegan.system.files import write_text
from cyclegan.system.html import page_template


def write_register_report(
    file: Path,
    versions: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    run_url: str,
    names: DomainNames = PLAIN_NAMES,
) -> None:
    """Write the page, which loads nothing from the network and runs no script.

    Args:
        file: the HTML file; an existing one is replaced.
        versions: the content of `reports/register.json` for each direction.
        title: name of the data set.
        run_url: address of the training's run in MLflow.
        names: of the domains.
    """
    template = page_template("cyclegan.report", "register_report.html.j2")
    write_text(file, template.render(versions=versions, title=title, run_url=run_url, names=names))
