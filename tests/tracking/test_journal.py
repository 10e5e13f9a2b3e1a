"""Journal entries survive kills, unfinished lines and a second delivery."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from cyclegan.tracking.description import RunDescription
from cyclegan.tracking.entries import ArtifactEntry, EndEntry, Entry, ImageEntry, MetricsEntry, TagsEntry, to_line
from cyclegan.tracking.journal import ENTRIES, Journal, JournalError, journals, read_image, try_lock_journal

WRITER = """
import sys
from pathlib import Path
from cyclegan.tracking.description import RunDescription
from cyclegan.tracking.entries import MetricsEntry
from cyclegan.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]), RunDescription("r", "e", "n", 1, {}, {}))
for step in range(10**9):
    journal.append(MetricsEntry(step=step, values={"x": 1 / (step + 1)}))
    print(step, flush=True)
"""


RUN = RunDescription("r", "e", "n", 1, {}, {})


def metrics(step: int, value: float = 1.0) -> MetricsEntry:
    return MetricsEntry(step=step, values={"loss": value})


def steps_of(entries: Iterable[Entry]) -> list[int]:
    return [entry.step for entry in entries if isinstance(entry, MetricsEntry)]


def steps(journal: Journal) -> list[int]:
    return steps_of(journal.all())


def test_entries_outlive_the_object_in_their_order_with_their_stamps(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(metrics(1), metrics(2, math.nan))
    journal.append(metrics(3, math.inf))
    again = Journal(tmp_path / "r")
    assert again.description == RUN
    assert [*map(repr, again.all())] == [*map(repr, journal.all())]
    second = [*again.all()][1]
    assert isinstance(second, MetricsEntry)
    assert math.isnan(second.values["loss"])
    assert len({entry.id for entry in again.all()}) == 3
    assert journals(tmp_path) == [tmp_path / "r"]


def test_delivered_entries_are_removed_once_all_are_delivered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(*(metrics(step) for step in range(5)))
    image = journal.keep_image(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    journal.append(ImageEntry(step=1, key="k", file=image))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.txt").write_text("a")
    files = journal.keep_files(tmp_path / "report")
    journal.append(ArtifactEntry(folder=None, file=files))
    assert (journal.folder / files / "a.txt").read_text() == "a"
    np.testing.assert_array_equal(read_image(journal.folder / image), np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert steps_of(journal.oldest(3)) == [0, 1, 2]
    journal.drop(3)
    # A process that starts here delivers them again; MLflow treats them as the same points.
    assert len(Journal(journal.folder)) == 7
    journal.drop(4)
    assert len(journal) == len(Journal(journal.folder)) == 0
    assert {path.name for path in journal.folder.iterdir()} == {"about.json", ENTRIES}
    journal.append(metrics(9))
    assert steps(Journal(journal.folder)) == [9]
    journal.remove()
    assert journal.folder.exists(), "it is not empty"
    journal.drop(1)
    journal.remove()
    assert not journal.folder.exists()


def test_only_entries_that_are_set_aside_stay_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(*(metrics(step) for step in range(5)))
    journal.set_aside()
    journal.set_aside(for_good=True)
    assert (len(journal), journal.pending, journal.aside) == (5, 3, 1)
    assert steps(Journal(journal.folder)) == [0, 1, 2, 3, 4], "as long as others wait, nothing is rewritten"
    journal.drop(3)
    assert sorted(steps(Journal(journal.folder))) == [0, 1]
    journal.remove()
    assert journal.folder.exists()
    journal.append(metrics(5))
    assert sorted(steps(Journal(journal.folder))) == [0, 1, 5]
    journal.take_back()
    assert steps_of(journal.oldest(9)) == [0, 5]
    journal.drop(2)
    assert steps(Journal(journal.folder)) == [1]
    again = Journal(journal.folder)
    again.drop(1)
    again.remove()
    assert not journal.folder.exists()


@pytest.mark.parametrize("tail", [b'{"kind": "metrics", "st', b"\x00\x00\x00", b"{"])
def test_an_unfinished_line_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(metrics(1), metrics(2))
    with (journal.folder / ENTRIES).open("ab") as file:
        file.write(tail)
    again = Journal(journal.folder)
    again.append(metrics(3))
    assert steps(Journal(journal.folder)) == [1, 2, 3]


def test_a_corrupt_line_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(metrics(1), metrics(2), metrics(3))
    lines = (journal.folder / ENTRIES).read_text().splitlines()
    (journal.folder / ENTRIES).write_text("\n".join([lines[0], "x" + lines[1], lines[2]]) + "\n")
    assert steps(Journal(journal.folder)) == [1, 3]
    assert "skipped a line" in caplog.text


# Lines of version 0.1.0.
EARLIER = (
    ('{"id": "a", "time": 1, "kind": "metrics", "step": 3, "values": {"loss": NaN}}', MetricsEntry),
    ('{"id": "b", "time": 2, "kind": "tags", "tags": {"note": "x"}}', TagsEntry),
    ('{"id": "c", "time": 3, "kind": "image", "step": 4, "key": "samples/AtoB", "file": "f.npy"}', ImageEntry),
    ('{"id": "d", "time": 4, "kind": "files", "folder": null, "file": "f/a.html"}', ArtifactEntry),
    ('{"id": "e", "time": 5, "kind": "end", "status": "FINISHED"}', EndEntry),
)


def test_a_journal_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    about = (
        '{"run_id": "r", "experiment": "e", "name": "n", "time": 1, "params": {"lr": "1"}, "tags": {"t": "x"}, '
        '"inputs": [{"name": "d", "digest": "0", "source": "s", "context": "training"}]}'
    )
    (tmp_path / "about.json").write_text(about)
    (tmp_path / ENTRIES).write_text("".join(line + "\n" for line, _ in EARLIER))
    journal = Journal(tmp_path)
    assert journal.description.inputs[0].source == "s"
    assert not journal.description.opened
    for entry, (line, kind) in zip(journal.all(), EARLIER, strict=True):
        assert type(entry) is kind
        written = {key: value for key, value in json.loads(to_line(entry)).items() if key != "epoch"}
        assert repr(sorted(written.items())) == repr(sorted(json.loads(line).items()))


@pytest.mark.parametrize("line", ['{"kind": "video", "id": "a", "time": 1}', '{"kind": "end"}', "3", '{"id": "a"}'])
def test_an_entry_that_this_version_does_not_know_is_refused_and_kept(tmp_path: Path, line: str) -> None:
    (tmp_path / ENTRIES).write_text(line + "\n")
    with pytest.raises(JournalError, match=r"entries.jsonl was written by another version.*or delete the folder"):
        Journal(tmp_path)
    assert (tmp_path / ENTRIES).read_text() == line + "\n"


def test_a_description_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"run_id": "r", "color": "red"}')
    with pytest.raises(JournalError, match=r"about.json was written by another version.*color"):
        _ = Journal(tmp_path).description


def test_a_killed_writer_loses_no_appended_entry(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        printed = [writer.stdout.readline() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        printed += [line for line in writer.stdout.readlines() if line.endswith("\n")]
    found = steps(Journal(tmp_path / "r"))
    assert found == list(range(len(found)))
    assert len(found) >= len(printed) >= 20


def test_threads_may_append_while_one_removes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r", RUN)
    taken: list[int] = []

    def write(first: int) -> None:
        for step in range(first, first + 50):
            journal.append(metrics(step))

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
    for writer in writers:
        writer.start()
    while len(taken) < 100:
        assert journal.wait_for_entry(10)
        batch = journal.oldest(7)
        taken += steps_of(batch)
        journal.drop(len(batch))
    for writer in writers:
        writer.join()
    assert sorted(taken) == [*range(50), *range(1000, 1050)]
    assert (journal.folder / ENTRIES).read_text() == ""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from cyclegan.tracking.journal import try_lock_journal\n"
        "with try_lock_journal(Path(sys.argv[1])) as free: print(free, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with try_lock_journal(tmp_path) as free:
            assert not free
        other.kill()
    with try_lock_journal(tmp_path, wait=5) as free:
        assert free


def test_entries_are_json_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r", RUN)
    journal.append(metrics(1))
    (line,) = (journal.folder / ENTRIES).read_text().splitlines()
    assert json.loads(line)["values"] == {"loss": 1.0}
