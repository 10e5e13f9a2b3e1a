"""The table of true pairs: by file names in the source, and by positions in the packed arrays."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

from cyclegan.data.images.layout import SourceImage, shown
from cyclegan.domains import DOMAINS, SPLITS
from cyclegan.system.errors import UserError, one_line

# Separators that spreadsheets write instead of commas, by name.
SEPARATORS = {"semicolons": ";", "tabs": "\t"}
PAIR_COLUMNS = ["split", "index_A", "index_B", "id_A", "id_B", "scored"]


def read_pairs(path: Path, found: list[SourceImage]) -> pd.DataFrame:
    """The pair table as text, with columns A, B and scored; without a table, every file with two halves is a pair."""
    if not path.exists():
        both = sorted({image.file for image in found if image.part != "whole"})
        return pd.DataFrame({"A": both, "B": both, "scored": ["true"] * len(both)}, dtype=str)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except UnicodeDecodeError:
        with path.open("rb") as file:
            encoding = "is UTF-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "is not UTF-8"
        raise UserError(f"{path}: {encoding}; save it as UTF-8") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: is not a readable CSV table ({one_line(error)}); correct it") from None
    missing = [column for column in DOMAINS if column not in table]
    if missing:
        separator = next(
            (name for name, mark in SEPARATORS.items() if any(mark in str(c) for c in table.columns)), None
        )
        if separator:
            raise UserError(f"{path}: columns are separated by {separator}; separate them by commas")
        raise UserError(f"{path}: has no column {missing[0]}; add columns A and B with paths relative to its folder")
    for domain in DOMAINS:
        known = {image.file for image in found if image.domain == domain}
        table[domain] = _as_on_disk(table[domain], known)
        named = table.loc[table[domain] != "", domain]
        unknown = sorted(set(named) - known)
        if unknown:
            raise UserError(
                f"{path}: column {domain} names {unknown[0]!r}, which is not an image of domain {domain}"
                f"{_hint(unknown[0], known)}"
            )
        twice = sorted(set(named[named.duplicated()]))
        if twice:
            raise UserError(f"{path}: column {domain} names {twice[0]!r} twice; name each image once")
    if "scored" not in table:
        table["scored"] = "true"
    table["scored"] = table["scored"].str.lower()
    wrong = sorted(set(table["scored"]) - {"true", "false"})
    if wrong:
        raise UserError(f"{path}: column scored holds {wrong[0]!r}; write true or false")
    return table


def _as_on_disk(named: pd.Series[str], known: set[str]) -> pd.Series[str]:
    """Replace names that differ from a file name only in their Unicode normalization by that file name.

    macOS writes accents as separate characters (decomposed), spreadsheets do not (composed).
    """
    composed = {unicodedata.normalize("NFC", file): file for file in sorted(known)}
    return named.map(lambda name: name if name in known else composed.get(unicodedata.normalize("NFC", name), name))


def _hint(name: str, known: set[str]) -> str:
    """A remedy for a name that no file has, if there is a similar file; else empty."""
    if "\\" in name:
        return "; write / instead of \\"
    meant = next((file for file in sorted(known) if _folded(file) == _folded(name)), None)
    return f"; did you mean {meant!r}? Upper and lower case count" if meant else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def index_pairs(table: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the pair table with both images in one split, as positions in the packed arrays."""
    place = {(row.domain, row.file): row for row in manifest.itertuples()}
    rows: list[dict[str, Any]] = []
    carried = [column for column in table if column not in ("A", "B", *PAIR_COLUMNS)]
    for source in table.to_dict("records"):
        a, b = place.get(("A", source["A"])), place.get(("B", source["B"]))
        if a is None or b is None or str(a.split) != str(b.split):
            continue
        values = (a.split, a.index, b.index, a.id, b.id, source["scored"])
        rows.append(dict(zip(PAIR_COLUMNS, values, strict=True)) | {str(column): source[column] for column in carried})
    pairs = pd.DataFrame(rows, columns=[*PAIR_COLUMNS, *carried])
    order = pairs.assign(split=pairs["split"].map(SPLITS.index)).sort_values(["split", "index_A"]).index
    return pairs.loc[order]


def refuse_unequal_pairs(pairs: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Refuse true pairs of unequal sizes: they cannot be compared pixel by pixel."""
    sizes = {
        (row.domain, row.split, row.index): f"{row.width}×{row.height}" for row in manifest.itertuples(index=False)
    }
    for pair in pairs.to_dict("records"):
        of_A, of_B = sizes["A", pair["split"], pair["index_A"]], sizes["B", pair["split"], pair["index_B"]]
        if of_A != of_B:
            raise UserError(
                f"{shown(pair['id_A'])}: has {of_A} pixels, but its true partner {shown(pair['id_B'])} has {of_B}; "
                "give both one size, or set data.load_size to a number"
            )
