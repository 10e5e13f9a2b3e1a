"""Stage fetch: every source ends as a complete `data/raw`, or as one message."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan import params
from cyclegan.data.fetching import sources
from cyclegan.data.fetching.raw_folder import fetch, file_path
from cyclegan.project import Project
from cyclegan.system.errors import UserError

REPOSITORY = Path(__file__).parents[3]
Build = Callable[..., params.Data]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def described(project: Project) -> dict[str, object]:
    return json.loads((project.raw / "source.json").read_text(encoding="utf-8"))


def pack(folder: Path, target: Path, form: str = "zip") -> tuple[Path, str]:
    archive = Path(shutil.make_archive(str(target), form, folder))
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()


def test_the_embedded_set(project: Project, data: Build) -> None:
    shutil.copytree(REPOSITORY / "data" / "fluent-emoji", project.embedded_data)
    fetch(data(), project)
    expected = tree(project.embedded_data)
    del expected["README.md"]
    assert set(tree(project.raw)) == {*expected, "source.json"}
    assert {name: content for name, content in tree(project.raw).items() if name != "source.json"} == expected
    assert described(project) == {
        "source": "fluent-emoji",
        "sha256": None,
        "layout": "domains",
        "images": {"testA": 245, "testB": 245, "trainA": 606, "trainB": 615, "valA": 96, "valB": 96},
        "passed_over": 0,
        "unreadable": {},
    }


def test_two_folders_are_copied_with_their_subfolders(
    project: Project,
    folders: Build,
    paint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paint(project.root / "a" / "x.png", 1)
    paint(project.root / "a" / "more" / "x.png", 2)
    paint(project.root / "a" / "X.png", 3)
    for name in ("notes.txt", "photo.heic", "other.HEIC", "README"):
        (project.root / "a" / name).touch()
    paint(tmp_path / "elsewhere" / "it's; $(odd)\n`name`.jpg", 4)
    before = tree(project.root / "a")
    fetch(folders(folder_B=str(tmp_path / "elsewhere")), project)
    assert tree(project.root / "a") == before
    copied = tree(project.raw)
    for name in ("x.png", "more/x.png", "X.png"):
        assert copied[f"trainA/{name}"] == before[name]
    assert len(copied) == 5
    assert described(project)["images"] == {"trainA": 3, "trainB": 1}
    assert described(project)["passed_over"] == 4
    printed = capsys.readouterr().out
    assert printed.startswith("skipped files without an image extension (.bmp/.gif/")
    assert sorted(printed.strip().partition("): ")[2].split(", ")) == ["1 .txt", "1 without extension", "2 .heic"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder_A": "nowhere"}, r"data.folder_A.*nowhere.* does not exist"),
        ({"folder_B": "a/x.png"}, r"data.folder_B.*a/x.png.* not a folder"),
        ({"folder_B": "a"}, r"data.folder_A.*data.folder_B.* same folder"),
        ({"folder_B": "link"}, r"data.folder_A.*data.folder_B.* same folder"),
        ({"folder_B": "a/sub"}, r"data.folder_A.*data.folder_B.*inside"),
        ({"folder_A": ".", "name": "x"}, r"data.folder_A.*data.folder_B.*inside"),
        ({"folder_A": "empty"}, r"data.folder_A.*empty: .* add .bmp/[^ ]* files$"),
        ({"folder_B": "texts"}, r"data.folder_B.*texts: .*2 other files"),
    ],
)
def test_unusable_folders(
    project: Project, folders: Build, paint: Callable[..., Path], changes: dict[str, str], message: str
) -> None:
    root = project.root
    paint(root / "a" / "x.png", 1)
    paint(root / "a" / "sub" / "y.png", 2)
    paint(root / "b" / "z.png", 3)
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "one.txt").touch()
    (root / "texts" / "two.txt").touch()
    (root / "link").symlink_to(root / "a")
    with pytest.raises(UserError, match=message) as error:
        fetch(folders(**changes), project)
    assert "\n" not in str(error.value)
    assert not project.raw.exists()


def test_a_broken_link_is_listed_or_skipped(project: Project, folders: Build, paint: Callable[..., Path]) -> None:
    paint(project.root / "a" / "x.png", 1)
    paint(project.root / "b" / "x.png", 2)
    (project.root / "b" / "gone.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"^1 .*data.on_bad_image.*\n  folder_B/gone.png: No such file"):
        fetch(folders(), project)
    fetch(folders(on_bad_image="skip"), project)
    assert described(project)["unreadable"] == {"folder_B/gone.png": "No such file or directory"}


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archives(project: Project, data: Build, paint_domains: Callable[..., None], tmp_path: Path, form: str) -> None:
    made = tmp_path / "made"
    paint_domains(made / "top", trainA=2, trainB=2, testB=1)
    (made / "top" / "NOTICE").write_text("whose")
    (made / "top" / "setup.sh").write_text("rm -rf /")
    archive, found = pack(made, project.root / "my set", form)
    fetch(data(source=f"file:{archive.name}", sha256=found), project)
    copied = tree(project.raw)
    assert {name: copied[name] for name in copied if name != "source.json"} == {
        name: content for name, content in tree(made / "top").items() if name != "setup.sh"
    }
    assert described(project)["sha256"] == found
    assert described(project)["images"] == {"testB": 1, "trainA": 2, "trainB": 2}
    assert archive.exists()
    assert [p.name for p in project.raw.parent.iterdir()] == ["raw"]


def test_side_by_side_pairs(project: Project, data: Build, paint: Callable[..., Path], tmp_path: Path) -> None:
    paint(tmp_path / "made" / "train" / "1.jpg", 1, 32, 16)
    _, found = pack(tmp_path / "made", project.root / "pairs")
    fetch(data(source="file:pairs.zip", sha256=found), project)
    assert described(project)["layout"] == "pairs"


def test_an_image_too_large_to_open_is_left_to_split(project: Project, data: Build, tmp_path: Path) -> None:
    (tmp_path / "made" / "train").mkdir(parents=True)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 40_000, 20_000, 8, 0, 0, 0, 0)), (b"IDAT", b""))
    content = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    (tmp_path / "made" / "train" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    _, found = pack(tmp_path / "made", project.root / "pairs")
    fetch(data(source="file:pairs.zip", sha256=found), project)
    assert described(project)["images"] == {"train": 1}


def test_a_lone_train_folder_of_single_images_is_no_layout(
    project: Project, data: Build, paint_domains: Callable[..., None], tmp_path: Path
) -> None:
    paint_domains(tmp_path / "made", train=2)
    _, found = pack(tmp_path / "made", project.root / "set")
    with pytest.raises(UserError, match=r"train/000.png: .*20×16"):
        fetch(data(source="file:set.zip", sha256=found), project)
    assert not project.raw.exists()


def test_archive_errors(project: Project, data: Build, tmp_path: Path) -> None:
    (project.root / "x.zip").write_bytes(b"text")
    found = hashlib.sha256(b"text").hexdigest()
    cases = {
        "data.source.*gone.zip": data(source="file:gone.zip", sha256=found),
        f"SHA-256.*{found}.* 00+; .*data.source": data(source="file:x.zip", sha256="0" * 64),
        "x.zip.* zip or tar": data(source="file:x.zip", sha256=found),
        "data.source.*'host'": data(source="file://host/x.zip", sha256=found),
    }
    for message, section in cases.items():
        with pytest.raises(UserError, match=message):
            fetch(section, project)
    assert not project.raw.exists()


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("file:///abs/a%20b.zip", "/abs/a b.zip"),
        ("file:/abs/x.zip", "/abs/x.zip"),
        ("file://localhost/abs/x.zip", "/abs/x.zip"),
        ("file:rel/x.zip", "/base/rel/x.zip"),
        ("file:../x.zip", "/base/../x.zip"),
        ("file:a#1?.zip", "/base/a#1?.zip"),
        ("file:%C3%BC.zip", "/base/ü.zip"),
    ],
)
def test_file_addresses(source: str, path: str) -> None:
    assert file_path(source, Path("/base")) == Path(path)


def test_a_later_fetch_replaces_the_earlier(project: Project, folders: Build, paint: Callable[..., Path]) -> None:
    for name in "ab":
        paint(project.root / name / "x.png", ord(name))
    fetch(folders(), project)
    first = tree(project.raw)
    fetch(folders(), project)
    assert tree(project.raw) == first
    (project.root / "a" / "x.png").unlink()
    with pytest.raises(UserError, match="holds no image"):
        fetch(folders(), project)
    assert tree(project.raw) == first


def test_an_experiments_copy_reads_its_own_folders(
    project: Project, folders: Build, paint: Callable[..., Path], tmp_path: Path
) -> None:
    copy = Project(root=tmp_path / "copy", home=project.home)
    for name in "ab":
        paint(project.home / name / "x.png", ord(name))
        paint(copy.root / name / "x.png", ord(name) + 100)
    fetch(folders(), copy)
    for name in "ab":
        assert (copy.raw / f"train{name.upper()}/x.png").read_bytes() == (copy.root / name / "x.png").read_bytes()


def test_a_folder_that_an_experiments_copy_lacks_is_refused(
    project: Project, folders: Build, paint: Callable[..., Path], tmp_path: Path
) -> None:
    copy = Project(root=tmp_path / "copy", home=project.home)
    for name in "ab":
        paint(project.home / name / "x.png", ord(name))
    with pytest.raises(UserError, match=r"^data.folder_A.*\ba\b.*experiment.*dvc add.*$"):
        fetch(folders(), copy)
    fetch(folders(folder_A=str(project.home / "a"), folder_B=str(project.home / "b")), copy)
    assert (copy.raw / "trainA/x.png").is_file()


def test_a_relative_archive_is_the_experiments_own_where_its_copy_has_one(
    project: Project, data: Build, paint_domains: Callable[..., None], tmp_path: Path
) -> None:
    paint_domains(tmp_path / "set", trainA=2, trainB=2)
    archive = Path(shutil.make_archive(str(project.home / "set"), "zip", tmp_path / "set"))
    copy = Project(root=tmp_path / "copy", home=project.home)
    source = data(source="file:set.zip", sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    fetch(source, copy)
    assert described(copy)["images"] == {"trainA": 2, "trainB": 2}
    (copy.root / "set.zip").write_bytes(b"another")
    with pytest.raises(UserError, match=r"copy/set.zip: SHA-256 is "):
        fetch(source, copy)


def test_a_given_checksum_of_a_public_set_is_verified(project: Project, data: Build) -> None:
    project.downloads.mkdir(parents=True)
    (project.downloads / "horse2zebra.zip").write_bytes(b"another")
    with pytest.raises(UserError, match=rf"horse2zebra.zip: SHA-256 is [0-9a-f]+, expected {'0' * 64}; "):
        fetch(data(source="horse2zebra", sha256="0" * 64), project)


def test_fourteen_public_sets() -> None:
    assert len(sources.PUBLIC) == 14
    assert all(url.startswith("https://") for url in sources.PUBLIC.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("horse2zebr", "did you mean horse2zebra"),
        ("fluent_emoji", "did you mean fluent-emoji"),
        ("cityscapes", "its license forbids redistribution"),
        ("qqqq", "use one of fluent-emoji, folders, ae_photos"),
        ("../horse2zebra", "did you mean horse2zebra"),
    ],
)
def test_unknown_sources(project: Project, data: Build, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(data(source=name), project)


def test_killed_in_the_middle(project: Project, paint_domains: Callable[..., None]) -> None:
    """SIGKILL at the n-th copied file: `data/raw` is absent, never incomplete, and the next start completes it."""
    paint_domains(project.root, a=10, b=10)
    (project.root / "dvc.yaml").touch()
    code = """
import os, shutil, signal, sys
from cyclegan import params
from cyclegan.data.fetching.raw_folder import fetch
from cyclegan.project import Project
copy, left = shutil.copyfile, int(sys.argv[1])
def counted(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(source, target)
shutil.copyfile = counted
fetch(params.Data(source="folders", sha256=None, folder_A="a", folder_B="b", name=None, load_size=16, channels_A=3,
      channels_B=3, bit_depth=8, labels="none", val_fraction=0.1, test_fraction=0.1, seed=1, on_bad_image="fail"),
      Project.find())
"""
    for copied in (0, 13, 19, 20):
        run = subprocess.run([sys.executable, "-c", code, str(copied)], cwd=project.root, check=False)
        assert run.returncode == (0 if copied == 20 else -signal.SIGKILL)
        assert project.raw.exists() == (copied == 20)
    assert len(list(project.raw.rglob("*.png"))) == 20
    assert [path.name for path in project.raw.parent.iterdir()] == ["raw"]
