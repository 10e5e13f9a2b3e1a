"""Stage `split`: decode every file once, assign images to splits, and pack the pixels.

The stage writes `manifest.csv`, `pairs.csv`, `left_out.csv` and one array per domain and split to `data/split`, and a
summary to `reports/split.json`. An array is `[N, H, W, C]`, or `[pixels, C]` if images keep their sizes. The same input
gives the same bytes.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cyclegan import params
from cyclegan.data.images.color_profile import describe_uses
from cyclegan.data.images.image import ProfileUse
from cyclegan.data.images.layout import list_images, shown
from cyclegan.data.packing.assignment import Key, assign, drop_duplicates
from cyclegan.data.packing.decoding import Decoded, LeftOut, decode_all
from cyclegan.data.packing.labels import folder_labels
from cyclegan.data.packing.pairs import index_pairs, read_pairs, refuse_unequal_pairs
from cyclegan.data.packing.scratch import Scratch, scratch_for
from cyclegan.domains import DOMAINS, SPLITS, Domain, Split
from cyclegan.project import Project
from cyclegan.system import files
from cyclegan.system.errors import UserError
from cyclegan.system.files import remove_leftovers, replacing_folder

NAMES_IN_SUMMARY = 20
NAMES_IN_MESSAGE = 50
MANIFEST_COLUMNS = [
    "id",
    "domain",
    "split",
    "index",
    "file",
    "part",
    "width",
    "height",
    "mode",
    "color_profile",
    "sha256",
]


def split(data: params.Data, project: Project) -> None:
    """Turn `project.raw` into packed arrays in `project.split`, with a summary beside the other reports.

    Raises:
        UserError: `data/raw` is missing, images are unreadable (unless `data.on_bad_image` is `skip`) or lack a class
            (with `data.labels`), the pair table does not match the files, or a domain has too few different images.
    """
    if not project.raw.is_dir():
        what = "is not a folder" if project.raw.exists() else "does not exist"
        raise UserError(f"{project.raw}: {what}; create it with 'dvc repro fetch'")
    # A killed fetch leaves temporary folders. DVC may restore its output from the run cache without running it again.
    remove_leftovers(project.raw)
    found = list_images(project.raw)
    table = read_pairs(project.raw / "pairs.csv", found)
    labels = folder_labels(found) if data.labels == "folders" else None
    with replacing_folder(project.split) as folder:
        scratch = {domain: scratch_for(folder / f"scratch{domain}", domain, found, data) for domain in DOMAINS}
        decoded, left_out = decode_all(found, data, scratch)
        _refuse_bad(left_out, len({image.file for image in found}), data.on_bad_image)
        _refuse_identical(decoded)
        assigned = assign(decoded, table, data)
        decoded, duplicates = drop_duplicates(decoded, assigned)
        left_out += duplicates
        manifest = _manifest(decoded, assigned)
        if labels is not None:
            manifest["label"] = manifest["file"].map(labels)
        _refuse_too_few(manifest, Counter(out.image.domain for out in duplicates))
        _pack(manifest, decoded, scratch, folder)
        for domain in DOMAINS:
            (folder / f"scratch{domain}").unlink()
        pairs = index_pairs(table, manifest)
        if data.load_size == "original":
            refuse_unequal_pairs(pairs, manifest)
        _write_csv(folder / "manifest.csv", manifest)
        _write_csv(folder / "pairs.csv", pairs)
        columns = ["file", "domain", "kind", "reason"]
        rows = [(out.image.file, out.image.domain, out.kind, out.reason) for out in left_out]
        _write_csv(folder / "left_out.csv", pd.DataFrame(rows, columns=columns))
        files.write_json(project.reports / "split.json", _summary(manifest, pairs, left_out, data))
        print(_summary_line(manifest, left_out))


def _refuse_bad(left_out: list[LeftOut], total: int, on_bad_image: str) -> None:
    if not left_out or on_bad_image == "skip":
        return
    reasons = {out.image.file: out.reason for out in left_out}
    lines = [f"  {shown(file)} {shown(reason)}" for file, reason in sorted(reasons.items())]
    if len(lines) > NAMES_IN_MESSAGE:
        lines[NAMES_IN_MESSAGE:] = [f"  … and {len(lines) - NAMES_IN_MESSAGE} more"]
    raise UserError(
        f"{len(reasons)} of {total} images cannot be used; fix or remove them, or set data.on_bad_image: skip\n"
        + "\n".join(lines)
    )


def _refuse_identical(decoded: list[Decoded]) -> None:
    for domain in DOMAINS:
        sums = [d.sha256 for d in decoded if d.image.domain == domain]
        if len(sums) > 1 and len(set(sums)) == 1:
            raise UserError(f"domain {domain}: all {len(sums)} images are identical; add different images")


def _refuse_too_few(manifest: pd.DataFrame, duplicates: Mapping[Domain, int]) -> None:
    """Check that every split has an image of every domain, and train at least two."""
    for domain in DOMAINS:
        for split, least, remedy in (
            ("train", 2, "add images"),
            ("val", 1, "add images, or raise data.val_fraction"),
            ("test", 1, "add images, or raise data.test_fraction"),
        ):
            count = int(((manifest["domain"] == domain) & (manifest["split"] == split)).sum())
            if count < least:
                total = int((manifest["domain"] == domain).sum())
                taken = duplicates.get(domain, 0)
                also = f" ({taken} more are left out as identical to images of val or test)" if taken else ""
                raise UserError(
                    f"domain {domain}: {count} of its {total} usable images are for {split}{also}, but at least "
                    f"{least} {'is' if least == 1 else 'are'} needed; {remedy}"
                )


def _manifest(decoded: list[Decoded], assigned: dict[Key, Split]) -> pd.DataFrame:
    """One row per packed image, sorted by domain, split and file; index labels are positions in `decoded`."""
    rows = [
        (
            i.id,
            i.domain,
            assigned[i.domain, i.file],
            0,
            i.file,
            i.part,
            d.width,
            d.height,
            d.mode,
            d.profile_use,
            d.sha256,
        )
        for d in decoded
        for i in [d.image]
    ]
    table = pd.DataFrame(rows, columns=MANIFEST_COLUMNS)
    order = table.assign(split=table["split"].map(SPLITS.index)).sort_values(["domain", "split", "file"]).index
    table = table.loc[order]
    table["index"] = table.groupby(["domain", "split"]).cumcount()
    return table


def _pack(manifest: pd.DataFrame, decoded: list[Decoded], scratch: dict[Domain, Scratch], folder: Path) -> None:
    """Copy the images of each domain and split, in the order of the manifest, to an array."""
    for domain in DOMAINS:
        for split in SPLITS:
            chosen = manifest.index[(manifest["domain"] == domain) & (manifest["split"] == split)]
            scratch[domain].pack([decoded[position].row for position in chosen], folder / f"{split}{domain}.npy")


def _summary(manifest: pd.DataFrame, pairs: pd.DataFrame, left_out: list[LeftOut], data: params.Data) -> dict[str, Any]:
    def sizes(rows: pd.DataFrame) -> dict[str, Any]:
        classes = {"classes": dict(sorted(Counter(rows["label"]).items()))} if "label" in rows else {}
        return {
            "counts": {split: int((rows["split"] == split).sum()) for split in SPLITS},
            "smallest": f"{rows['width'].min()}x{rows['height'].min()}",
            "largest": f"{rows['width'].max()}x{rows['height'].max()}",
            "modes": {mode: int(n) for mode, n in sorted(Counter(rows["mode"]).items())},
            "color_profiles": _profiles(rows),
            **classes,
        }

    def named(kind: str) -> dict[str, Any]:
        of_kind = {out.image.file: out.reason for out in left_out if out.kind == kind}
        return {"count": len(of_kind), "first": dict(sorted(of_kind.items())[:NAMES_IN_SUMMARY])}

    return {
        **{domain: sizes(manifest[manifest["domain"] == domain]) for domain in DOMAINS},
        "pairs": {split: int((pairs["split"] == split).sum()) for split in SPLITS},
        "scored_pairs": {s: int(((pairs["split"] == s) & (pairs["scored"] == "true")).sum()) for s in SPLITS},
        "load_size": "original" if data.load_size == "original" else f"{data.load_size[1]}x{data.load_size[0]}",
        "unreadable": named("unreadable"),
        "duplicates_taken_out_of_train": named("duplicate"),
    }


def _profiles(manifest: pd.DataFrame) -> dict[ProfileUse, int]:
    """Numbers of images that were converted to sRGB, and of those with an unusable color profile."""
    uses: tuple[ProfileUse, ...] = ("converted", "unusable")
    return {use: int((manifest["color_profile"] == use).sum()) for use in uses}


def _summary_line(manifest: pd.DataFrame, left_out: list[LeftOut]) -> str:
    """Numbers of images by split, and of those left out, in one line."""
    counts = manifest.groupby(["domain", "split"]).size()
    parts = [f"{domain}: {', '.join(f'{counts[domain, split]} {split}' for split in SPLITS)}" for domain in DOMAINS]
    kinds = Counter(out.kind for out in left_out)
    others = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    parts += describe_uses(_profiles(manifest))
    return "; ".join([*parts, *([f"left out: {', '.join(others)} (data/split/left_out.csv)"] if others else [])])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    # Quote all text: otherwise a carriage return in a file name ends its row.
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", quoting=csv.QUOTE_NONNUMERIC)
