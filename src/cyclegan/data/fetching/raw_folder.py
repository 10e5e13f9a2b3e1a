"""Stage `fetch`: bring the images, from wherever they are, into `data/raw` in one of the known layouts.

Nothing of the user's is moved, changed or deleted. The folder appears whole or not at all.
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
"""Brings one file from the first path to the second: a copy, or a rename for what we have unpacked ourselves."""


@dataclass(frozen=True)
class Brought:
    """What was put into `data/raw`, for `source.json`."""

    source: str
    sha256: str | None
    passed_over: Counter[str]
    """How many files of which ending are no images by it."""
    unreadable: dict[str, str]
    """Images that could not be opened, with the reason."""


def fetch(data: params.Data, project: Project) -> None:
    """Fill `project.raw` from `data.source` and describe it in `source.json` there.

    Sources: `fluent-emoji` (part of the project), `folders` (copied), a `file:` or `https:` archive with its SHA-256,
    or a public set by name, whose SHA-256 is recorded in `project.checksums` on first use and verified ever after.

    Raises:
        UserError: unknown source, unreachable or wrong archive, wrong layout, unusable folders.
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
            print(f"passed over, as no images by their endings ({endings()}): {kinds}")
        files.write_json(raw / "source.json", described)


def _from_tree(
    folder: Path, raw: Path, transfer: Transfer, data: params.Data, source: str, sha256: str | None
) -> Brought:
    """Bring the image folders of a data set, and what stands beside them, to `raw`."""
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
    """Copy the two folders as `trainA` and `trainB`; subfolders stay, so equal names in them do not meet."""
    folders = image_folders(data, project)
    passed_over = Counter[str]()
    unreadable: dict[str, str] = {}
    for domain in DOMAINS:
        folder = folders[domain]
        found = walk(folder)
        unreadable |= _broken(found, f"folder_{domain}", data)
        if not found.images:
            other = f"; it holds {len(found.others)} other files" if found.others else ""
            raise UserError(f"data.folder_{domain} = {shown(folder)}: holds no image ({endings()}){other}")
        _transfer(found, folder, raw / f"train{domain}", shutil.copyfile)
        passed_over += found.kinds_of_others
    return Brought(f"folders {data.folder_A} and {data.folder_B}", None, passed_over, unreadable)


def image_folders(data: params.Data, project: Project) -> dict[Domain, Path]:
    """The user's own two folders.

    Raises:
        UserError: they are missing, or lie in each other or in what stage fetch replaces.
    """
    named: dict[Domain, str] = {"A": data.folder_A, "B": data.folder_B}
    # DVC records a relative folder as it is where the stage runs, which may be a copy of the project.
    folders = {domain: project.root / name for domain, name in named.items()}
    for domain, folder in folders.items():
        if not folder.is_dir():
            if project.root != project.home and (project.home / named[domain]).is_dir():
                raise UserError(
                    f"data.folder_{domain} = {shown(named[domain])}: not in this experiment's copy of the project; "
                    "commit it, 'dvc add' it, or name it by its absolute path"
                )
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"data.folder_{domain} = {shown(folder)}: {what}")
    a, b, ours = folders["A"].resolve(), folders["B"].resolve(), project.raw.resolve()
    if a == b:
        raise UserError(f"data.folder_A and data.folder_B are the same folder {shown(a)}; a domain needs its own")
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise UserError(
            f"data.folder_A = {shown(a)} and data.folder_B = {shown(b)}: one lies inside the other; separate them"
        )
    for domain, path in (("A", a), ("B", b)):
        if path.is_relative_to(ours) or ours.is_relative_to(path):
            raise UserError(
                f"data.folder_{domain} = {shown(path)}: overlaps with {shown(ours)}, which stage fetch replaces; "
                "keep your images elsewhere"
            )
    return folders


def _transfer(found: Found, source: Path, target: Path, transfer: Transfer) -> None:
    target.mkdir()
    quiet = len(found.images) < SHOW_PROGRESS_FROM
    for relative in tqdm(found.images, f"fetch {target.name}", unit="image", disable=quiet):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        transfer(source / relative, target / relative)


def _from_archive(data: params.Data, project: Project, raw: Path) -> Brought:
    """Get, verify and unpack an archive; unpacked files are renamed into place."""
    if data.source.startswith("file:"):
        path = file_path(data.source, project.root)
        if not path.is_file():
            # An experiment's copy lacks what is outside version control; the checksum says that it is the same file.
            path = file_path(data.source, project.home)
        if not path.is_file():
            raise UserError(f"data.source = {data.source!r}: there is no file {shown(path)}")
        name, sha256 = data.source, download.check_sum(path, data.sha256, "check data.source and data.sha256")
    elif data.source.startswith("https:"):
        assert data.sha256 is not None, "params refuse an archive without its sum"
        # The sum in the name keeps archives of equal name apart.
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
        # Nobody has vouched for what a public server sent this time: do not find it again at the next start.
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
        UserError: it names another machine.
    """
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise UserError(
            f"data.source = {source!r}: names the machine {parts.netloc!r}; write file:///path or file:path"
        )
    # An unescaped ? or # belongs to the name: a file has no query.
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
        raise UserError(f"{path} is not valid JSON ({error}); restore it with 'git checkout {path}'") from None
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise UserError(f"{path} holds no table of names and sums; restore it with 'git checkout {path}'")
    return known


def _refuse_single_images(raw: Path, file: str) -> None:
    """A layout of `train` alone must hold pairs side by side; one look at its first image tells.

    Raises:
        UserError: the image is not twice as wide as high.
    """
    try:
        with Image.open(raw / file, formats=FORMATS) as image:
            width, height = image.size
    # Pillow raises nearly every exception type on damaged or oversized files.
    except Exception:
        return  # Stage split lists every unreadable image.
    if width != 2 * height:
        raise UserError(
            f"no known layout: {shown(file)} has {width}×{height} pixels, so train holds no pairs side by side; "
            f"accepted: {ACCEPTED}"
        )


def _broken(found: Found, name: str, data: params.Data) -> dict[str, str]:
    broken = {shown(f"{name}/{path.as_posix()}"): reason for path, reason in found.broken}
    if broken and data.on_bad_image == "fail":
        lines = [f"  {name}: {reason}" for name, reason in broken.items()]
        raise UserError(
            f"{len(broken)} images cannot be opened; mend or remove them, or set data.on_bad_image: skip\n"
            + "\n".join(lines)
        )
    return broken
