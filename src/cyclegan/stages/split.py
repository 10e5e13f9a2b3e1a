"""Stage `split`."""

from cyclegan.data.split import split
from cyclegan.params import load
from cyclegan.project import Project


def run(project: Project) -> None:
    """Decode `data/raw` once and pack it into `data/split`."""
    split(load(project.params).data, project)
