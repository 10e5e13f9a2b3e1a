"""`SharedSearch` as one process of a search uses it, on a real journal."""

from __future__ import annotations

from pathlib import Path

from cyclegan.params import read, validate
from cyclegan.params.overrides import nested, overlaid
from cyclegan.project import Project
from cyclegan.search.shared_search import SharedSearch
from cyclegan.search.study import Phase, worker_lock

PSNR = {"name": "PSNR", "direction": "maximize", "terms": {"val_AtoB/pair_psnr": 1.0}}
GOOD = read(Path(__file__).parents[2] / "params.yaml")


def opened(folder: Path) -> SharedSearch:
    changes = {"search.trials": 3, "search.finalists": 1, "search.repeats": 2, "search.objectives": [PSNR]}
    params = validate(overlaid(GOOD, nested(changes)))
    return SharedSearch(Project(root=folder, home=folder), params, "0123456789", None, create=True)


def end_one(search: SharedSearch, phase: Phase, owner: Path) -> None:
    """Complete the next trial. Later trials have better values."""
    trial = phase.claim(owner)
    assert trial is not None
    for dimension in search.space:
        dimension.suggest(trial)
    phase.study.tell(trial, float(trial.number))


def test_reading_a_search_does_not_write_to_the_journal(tmp_path: Path) -> None:
    search = opened(tmp_path)
    journal = tmp_path / ".search" / "journal.log"
    with worker_lock(tmp_path / "workers") as owner:
        for _ in range(3):
            end_one(search, search.trials, owner)
        finals = search.phase()
        assert finals is not None
        assert list(finals.slots) == ["0-0", "0-1", "2-0", "2-1"]
        before = journal.read_bytes()
        assert search.phase() is search.finals() is finals
        # Another process does not write either.
        assert list(opened(tmp_path).finals().slots) == list(finals.slots)
        assert journal.read_bytes() == before
        for _ in finals.slots:
            end_one(search, finals, owner)
    assert search.phase() is None
