"""Stage `fetch`: bring the images into `data/raw`."""

from pathlib import Path

from cyclegan.data.fetching.raw_folder import fetch
from cyclegan.data.images.layout import shown
from cyclegan.params import Data, load
from cyclegan.project import Project
from cyclegan.tracking.provenance import is_versioned


def run(project: Project) -> None:
    """Bring the images of `data.source` into `data/raw`."""
    data = load(project.params).data
    fetch(data, project)
    _warn_unversioned(data, project)


def _warn_unversioned(data: Data, project: Project) -> None:
    """Print which folders are missing in the copy of the project that a queued DVC experiment uses."""
    if data.source != "folders" or project.root != project.home:
        return
    for key, name in (("folder_A", data.folder_A), ("folder_B", data.folder_B)):
        if not Path(name).is_absolute() and not is_versioned(project, name):
            print(
                f"data.{key} = {shown(name)}: neither in git nor in DVC, so 'dvc exp run --queue' lacks it; "
                "commit it, 'dvc add' it, or use its absolute path"
            )
