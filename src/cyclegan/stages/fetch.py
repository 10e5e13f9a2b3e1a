"""Stage `fetch`."""

from cyclegan.data.fetch import fetch
from cyclegan.params import load
from cyclegan.project import Project


def run(project: Project) -> None:
    """Bring the pictures of `data.source` into `data/raw`."""
    fetch(load(project.params).data, project)
