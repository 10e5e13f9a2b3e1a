"""The data that comes with the project."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

EMOJI = Path(__file__).parents[2] / "data" / "fluent-emoji"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(EMOJI / "pairs.csv", dtype=str, keep_default_na=False)


def test_no_group_stands_in_two_splits(table: pd.DataFrame) -> None:
    splits = table.groupby("group")["split"].nunique()
    assert splits.max() == 1


def test_counts(table: pd.DataFrame) -> None:
    assert table["split"].value_counts().to_dict() == {"trainA": 606, "trainB": 615, "test": 245, "val": 96}
    scored = table[table["scored"] == "true"]
    assert scored["split"].value_counts().to_dict() == {"test": 233, "val": 96}
    assert (scored["mask_iou"].astype(float) >= 0.8).all()


def test_the_table_names_exactly_the_files(table: pd.DataFrame) -> None:
    named = {path for path in [*table["A"], *table["B"]] if path}
    present = {path.relative_to(EMOJI).as_posix() for path in EMOJI.glob("*/*.png")}
    assert named == present


def test_the_notice_comes_along() -> None:
    assert "MIT License" in (EMOJI / "NOTICE").read_text(encoding="utf-8")
