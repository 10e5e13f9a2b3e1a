"""Stage `fetch`: bring the images from their source to `data/raw`, in one of the known layouts.

The user's files are not moved, changed or deleted. The folder appears complete or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image
from tqdm import tqdm

from cyclegan import params
from cyclegan.data.fetching import archives, download, sources
from cyclegan.data.images.decode import FORMATS
from cyclegan.data.images.layout import ACCEPTED, Found, endings, find_layout, list_images, shown, walk
from cyclegan.domains import DOMAINS, Domain
from cyclegan.project import Project
from cyclegan.system import files
from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing_folder

SHOW_PROGRESS_FROM = 2000
CARRIED = ("pairs.csv", "NOTICE", "LICENSE")

Transfer = Callable[[Path, Path], Any]
"""Brings one file from the first path to the second: by a copy, or by a rename of an unpacked file."""


@dataclass(frozen=True)
class Brought:
    """A description of `data/raw` for `source.json`."""

    source: str
    sha256: str | None
    passed_over: Counter[str]
    """Number of files that are no images, by file extension."""
    unreadable: dict[str, str]
    """Images that could not be opened, with the reason."""


def fetch(data: params.Data, project: Project) -> None:
    """Fill `project.raw` from `data.source` and describe it in `source.json` there.

    Sources: `fluent-emoji` (part of the project), `folders` (copied), a `file:` or `https:` archive with its SHA-256,
    or a public set by name. The SHA-256 of a public set is recorded in `project.checksums` on first use and verified
    on every later use.

    Raises:
        UserError: the source is unknown or unreachable, or its checksum, layout or folders are wrong.
    """
    with replacing_folder(project.raw) as raw:
        if data.source == "fluent-emoji":
            brought = _from_tree(project.embedded_data, raw, shutil.copyfile, data, data.source, None)
        elif data.source == "folders":
            brought = _from_folders(data, project, raw)
        else:
            brought = _from_archive(data, project, raw)
        images = list_images(raw)
        if images[0].part != "whole":
            _refuse_single_images(raw, images[0].file)
        counts: dict[str, int] = {}
        for file in {image.file for image in images}:
            folder = file.split("/", 1)[0]
            counts[folder] = counts.get(folder, 0) + 1
        described = {
            "source": brought.source,
            "sha256": brought.sha256,
            "layout": find_layout(raw).kind,
            "images": dict(sorted(counts.items())),
            "passed_over": sum(brought.passed_over.values()),
            "unreadable": brought.unreadable,
        }
        if brought.passed_over:
            kinds = ", ".join(f"{count} {kind}" for kind, count in brought.passed_over.most_common())
            print(f"skipped files without an image extension ({endings()}): {kinds}")
        files.write_json(raw / "source.json", described)


def _from_tree(
    folder: Path, raw: Path, transfer: Transfer, data: params.Data, source: str, sha256: str | None
) -> Brought:
    """Bring the image folders of a data set, and the files of `CARRIED`, to `raw`."""
    layout = find_layout(folder)
    passed_over = Counter[str]()
    unreadable: dict[str, str] = {}
    for name in layout.folders:
        found = walk(layout.root / name)
        _transfer(found, layout.root / name, raw / name, transfer)
        passed_over += found.kinds_of_others
        unreadable |= _broken(found, name, data)
    for name in CARRIED:
        if (layout.root / name).is_file():
            transfer(layout.root / name, raw / name)
    return Brought(source, sha256, passed_over, unreadable)


def _from_folders(data: params.Data, project: Project, raw: Path) -> Brought:
    """Copy the two folders with their subfolders to `trainA` and `trainB`."""
    folders = image_folders(data, project)
    passed_over = Counter[str]()
    unreadable: dict[str, str] = {}
    for domain in DOMAINS:
        folder = folders[domain]
        found = walk(folder)
        unreadable |= _broken(found, f"folder_{domain}", data)
        if not found.images:
            other = f", but {len(found.others)} other files" if found.others else ""
            raise UserError(f"data.folder_{domain} = {shown(folder)}: holds no images{other}; add {endings()} files")
        _transfer(found, folder, raw / f"train{domain}", shutil.copyfile)
        passed_over += found.kinds_of_others
    return Brought(f"folders {data.folder_A} and {data.folder_B}", None, passed_over, unreadable)


def image_folders(data: params.Data, project: Project) -> dict[Domain, Path]:
    """The user's two image folders.

    Raises:
        UserError: a folder is missing, or overlaps with the other one or with `data/raw`.
    """
    named: dict[Domain, str] = {"A": data.folder_A, "B": data.folder_B}
    # A relative folder is relative to where the stage runs, which may be DVC's copy of the project.
    folders = {domain: project.root / name for domain, name in named.items()}
    for domain, folder in folders.items():
        if not folder.is_dir():
            if project.root != project.home and (project.home / named[domain]).is_dir():
                raise UserError(
                    f"data.folder_{domain} = {shown(named[domain])}: missing in this experiment's copy of the project; "
                    "commit it, 'dvc add' it, or write its absolute path"
                )
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"data.folder_{domain} = {shown(folder)}: {what}; correct the path")
    a, b, ours = folders["A"].resolve(), folders["B"].resolve(), project.raw.resolve()
    if a == b:
        raise UserError(f"data.folder_A and data.folder_B: the same folder {shown(a)}; give each domain its own folder")
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise UserError(
            f"data.folder_A = {shown(a)} and data.folder_B = {shown(b)}: one lies inside the other; separate them"
        )
    for domain, path in (("A", a), ("B", b)):
        if path.is_relative_to(ours) or ours.is_relative_to(path):
            raise UserError(
                f"data.folder_{domain} = {shown(path)}: overlaps with {shown(ours)}, which stage fetch replaces; "
                "move your images elsewhere"
            )
    return folders


def _transfer(found: Found, source: Path, target: Path, transfer: Transfer) -> None:
    target.mkdir()
    quiet = len(found.images) < SHOW_PROGRESS_FROM
    for relative in tqdm(found.images, f"fetch {target.name}", unit="image", disable=quiet):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        transfer(source / relative, target / relative)


def _from_archive(data: params.Data, project: Project, raw: Path) -> Brought:
    """Download if needed, verify and unpack an archive."""
    if data.source.startswith("file:"):
        path = file_path(data.source, project.root)
        if not path.is_file():
            # DVC's copy of the project lacks files outside version control. The checksum identifies the file.
            path = file_path(data.source, project.home)
        if not path.is_file():
            raise UserError(f"data.source = {data.source!r}: file {shown(path)} does not exist; correct the path")
        name, sha256 = data.source, download.check_sum(path, data.sha256, "check data.source and data.sha256")
    elif data.source.startswith("https:"):
        assert data.sha256 is not None, "params refuse an archive without its checksum"
        # The checksum in the name distinguishes archives of the same name.
        path = project.downloads / f"{data.sha256[:12]}-{_file_name(data.source)}"
        name, sha256 = download.without_secrets(data.source), data.sha256
        download.download(data.source, path, data.sha256)
    else:
        url = sources.public_url(data.source)
        path = project.downloads / _file_name(url)
        known = _read_checksums(project.checksums)
        name, sha256 = data.source, download.download(url, path, data.sha256 or known.get(data.source))
    unpacked = raw / ".unpacked"
    unpacked.mkdir()
    try:
        archives.extract(path, unpacked)
        find_layout(unpacked)
    except UserError:
        # The checksum of this download is not known. Delete it: the next run must not use it again.
        if data.source in sources.PUBLIC and data.source not in _read_checksums(project.checksums):
            path.unlink()
        raise
    brought = _from_tree(unpacked, raw, Path.rename, data, name, sha256)
    shutil.rmtree(unpacked)
    if data.source in sources.PUBLIC:
        known = _read_checksums(project.checksums)
        if known.setdefault(data.source, sha256) == sha256:
            files.write_json(project.checksums, dict(sorted(known.items())))
    return brought


def file_path(source: str, base: Path) -> Path:
    """The path of a `file:` address: `file:///absolute`, `file:/absolute` or `file:relative/to/base`, percent-encoded.

    Raises:
        UserError: it contains the name of another machine.
    """
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise UserError(
            f"data.source = {source!r}: is on another machine, {parts.netloc!r}; write file:///path or file:path"
        )
    # A file has no query: an unescaped ? or # belongs to its name.
    rest = (
        source.removeprefix("file:").removeprefix(f"//{parts.netloc}") if source.startswith("file://") else source[5:]
    )
    return base / unquote(rest)


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".")[-80:] or "archive"


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); restore it with 'git checkout {path}'") from None
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise UserError(f"{path}: holds no table of names and checksums; restore it with 'git checkout {path}'")
    return known


def _refuse_single_images(raw: Path, file: str) -> None:
    """Check that the first image of a layout of `train` alone is a pair side by side.

    Raises:
        UserError: the image is not twice as wide as high.
    """
    try:
        with Image.open(raw / file, formats=FORMATS) as image:
            width, height = image.size
    # Pillow raises nearly every exception type on corrupt or oversized files.
    except Exception:
        return  # Stage split reports all unreadable images.
    if width != 2 * height:
        raise UserError(
            f"{shown(file)}: has {width}×{height} pixels, so train holds no pairs side by side; use {ACCEPTED}"
        )


def _broken(found: Found, name: str, data: params.Data) -> dict[str, str]:
    broken = {shown(f"{name}/{path.as_posix()}"): reason for path, reason in found.broken}
    if broken and data.on_bad_image == "fail":
        lines = [f"  {name}: {reason}" for name, reason in broken.items()]
        raise UserError(
            f"{len(broken)} images cannot be opened; fix or remove them, or set data.on_bad_image: skip\n"
            + "\n".join(lines)
        )
    return broken
