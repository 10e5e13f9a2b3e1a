from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from cyclegan.domains import DomainNames
from cyclegan.report.register_report import write_register_report

HOSTILE = '<script>alert("x")</script>&'
URL = "https://mlflow.example/#/experiments/1/runs/0123abcd"
GATE = {"metric": "kid", "value": 0.25, "reason": HOSTILE, "against": 0.5, "gain": 0.25, "standard_error": 0.125}


def test_the_page_shows_the_decision_on_both_versions(tmp_path: Path) -> None:
    version = {"name": "set-AtoB", "version": "3", "uri": "models:/set-AtoB/3", "alias": "champion", "champion": "3"}
    other = {"name": "set-BtoA", "version": "4", "uri": "models:/set-BtoA/4", "alias": "challenger", "champion": None}
    undecided = {**GATE, "against": None, "gain": None, "standard_error": None}
    file = tmp_path / "register.html"
    versions = {"AtoB": {**version, "gate": GATE}, "BtoA": {**other, "gate": undecided}}
    write_register_report(file, versions, title=HOSTILE, run_url=URL, names=DomainNames("flat", "3D"))
    page = file.read_text()
    assert "<script" not in page
    assert set(re.findall(r'href="([^"]*)"', page)) == {URL, "data:,", "evaluate/report.html"}
    text = " ".join(unescape(re.sub(r"<style>.*</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())
    one, both = text.split("3D → flat")
    assert "flat → 3D set-AtoB, version 3, is champion" in one
    assert HOSTILE in one
    assert "value 0.25, compared with 0.5 gain +0.25 ± 0.12" in one
    assert "set-BtoA, version 4, stays challenger" in both
    assert "gain" not in both
    assert "champion now none" in both
