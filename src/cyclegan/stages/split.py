"""Stage `split`: split the images into train, val and test, and pack them."""

import json

from cyclegan.data.packing.pack import split
from cyclegan.evaluation.distributions import FEWEST, lack_for_kid
from cyclegan.params import load
from cyclegan.project import Project


def run(project: Project) -> None:
    """Decode `data/raw` once and pack it into `data/split`."""
    split(load(project.params).data, project)
    _warn_of_few(project)


def _warn_of_few(project: Project) -> None:
    """Print the consequences of too few validation or test images."""
    summary = json.loads((project.reports / "split.json").read_text(encoding="utf-8"))
    for name, consequence in (
        ("val", "train.select: auto keeps the last generators"),
        ("test", "no version becomes champion automatically"),
    ):
        counts = {domain: summary[domain]["counts"][name] for domain in ("A", "B")}
        lack = lack_for_kid(counts, name)
        if lack is None and name == "test" and min(counts.values()) < FEWEST:
            lack = f"{min(counts.values())} test images: KID has no standard error (needs {FEWEST})"
        # With true pairs, pair PSNR replaces KID.
        if lack and not summary["scored_pairs"][name]:
            print(f"{lack}, so {consequence}; add images or raise data.{name}_fraction")
