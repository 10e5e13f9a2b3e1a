from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from browser import CHROMIUM, NO_BROWSER, content_width
from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DomainNames
from cyclegan.evaluation.color_map import fit_color_map
from cyclegan.evaluation.comparison.gain import Gain
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.protocol import RealImages, evaluate
from cyclegan.models.translator import Translator
from cyclegan.report.evaluation_report import draw, write_reports
from cyclegan.report.metrics_table import IMAGE_SCALES, MetricsTable

Pack = Callable[..., PackedDataset]
Linear = Callable[..., keras.Model]
HOSTILE = '<script>alert("x")</script>&'
NAMES = DomainNames("<i>flat", "3D")
URL = "https://mlflow.example/#/experiments/1/runs/0123abcd"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags, text and attributes of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())


def dataset_and_translators(pack: Pack, linear: Linear) -> tuple[PackedDataset, dict[str, Translator]]:
    """Twelve pairs; b is a, darker. G_AtoB darkens as it should, G_BtoA darkens again, which is wrong."""
    a = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    b = (a // 2).astype(np.uint8)
    ids = {"A": [f"{HOSTILE}{n}" for n in range(12)], "B": [f"b{n}" for n in range(12)]}
    dataset = pack(a, b, ids=ids, pairs=[(n, n, n < 5) for n in range(12)])
    darker = {direction: Translator(linear(np.eye(3) / 2, offset=-0.5)) for direction in ("AtoB", "BtoA")}
    return dataset, darker


@pytest.fixture
def folder(pack: Pack, linear: Linear, network: FeatureNetwork, tmp_path: Path) -> Path:
    """A complete set of reports with hostile names everywhere."""
    dataset, translators = dataset_and_translators(pack, linear)
    color_map = fit_color_map(dataset, "test", "AtoB")
    evaluation = evaluate(translators, dataset, "test", RealImages(dataset, "test", network), {"AtoB": color_map})
    evaluation.metrics["checkpoint"] = {"select": "kid", "step": 20, "epoch": 2.0, "value": 0.0123}
    history = pd.DataFrame(
        {
            "step": [10, 20, 30],
            "epoch": [1.0, 2.0, 3.0],
            "G_AtoB/total": [3.0, 2.0, 1.0],
            "D_A/output_real": [0.5, 0.6, 0.97],
            "D_A/output_fake": [0.5, 0.4, 0.03],
            "D_B/output_real": [0.5, 0.6, 0.7],
            "D_B/output_fake": [0.5, 0.4, 0.3],
            "val_AtoB/pair_psnr": [np.nan, 20.0, 21.0],
            "val_AtoB/kid": [np.nan, 0.2, 0.1],
        }
    )
    run = {"Run": HOSTILE, "Commit": "0123abcd", "Device": None, "MLflow run": "0123abcd"}
    images = draw(translators, dataset, evaluation, 3, NAMES)
    over_time = np.full((8, 12, 3), 7, np.uint8)
    write_reports(
        tmp_path / "out",
        evaluation,
        images,
        title=HOSTILE,
        run=run,
        run_url=URL,
        names=NAMES,
        history=history,
        over_time=over_time,
    )
    return tmp_path / "out"


def test_all_files_are_there_and_agree(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"details.json", "per_image.csv", "grid.png", "report.html"}
    metrics = json.loads((folder / "details.json").read_text())
    table = pd.read_csv(folder / "per_image.csv")
    assert len(table) == 48
    for direction in ("AtoB", "BtoA"):
        rows = table[table["direction"] == direction]
        assert rows["cycle_l1"].mean() == pytest.approx(metrics[direction]["cycle_l1"], rel=1e-4)
        scored = rows[rows["scored"].astype(str) == "True"]
        assert len(scored) == metrics[direction]["pair_n"] == 5
        assert scored["pair_psnr"].mean() == pytest.approx(metrics[direction]["pair_psnr"], rel=1e-4)
    assert Image.open(folder / "grid.png").size == (8 * 128 + 6 * 2 + 24, 24 + 3 * 128 + 2 * 4)


def test_page_needs_no_network_and_runs_nothing(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|@import", html.replace(URL, ""), re.IGNORECASE)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert set(links) == {URL, "../register.html"}
    loaded = [value for tag, name, value in page.attributes if name in ("src", "href", "srcset") and tag != "a"]
    assert loaded
    assert all(value.startswith("data:") for value in loaded)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert ("meta", "content") in {(tag, name) for tag, name, value in page.attributes if "default-src 'none'" in value}


def test_hostile_names_are_text(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert "<script" not in html.lower()
    words = Page(html).words()
    assert f"Run {HOSTILE}" in words
    assert f"{HOSTILE}0 → b0" in words


def table_of(html: str) -> dict[str, dict[str, list[str]]]:
    """The table of metrics: group → metric → texts of the cells."""
    groups: dict[str, dict[str, list[str]]] = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", html, re.DOTALL):
        (group,) = re.findall(r'scope="rowgroup">([^<]*)</th>', body)
        groups[group] = {
            re.sub(r"<[^>]*>", "", name).rstrip(" ↑↓"): re.findall(r"<td[^>]*>([^<]*)</td>", cells)
            for name, cells in re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', body, re.DOTALL)
        }
    return groups


def test_the_first_screen_gives_the_verdict_counts_and_warnings(folder: Path) -> None:
    words = Page((folder / "report.html").read_text()).words().split("Metrics Metric")[0]
    assert re.search(
        r"<i>flat → 3D beats the identity baseline \(PSNR better by \S+ ± \S+ dB\); 3D → <i>flat loses to", words
    )
    assert "12 test images of <i>flat, 12 of 3D 5 scored true pairs kept: epoch 2 , step 20 MLflow run" in words
    assert "Warning, Discriminators: D_<i>flat won. D_<i>flat has won" in words
    assert "real <i>flat <i>flat to 3D <i>flat to 3D to <i>flat true 3D" in words


def test_the_table_holds_model_baseline_and_difference(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    metrics = json.loads((folder / "details.json").read_text())
    table = pd.read_csv(folder / "per_image.csv")
    groups = table_of(html)
    psnr = groups["Translations against their true partners"]["PSNR, dB"]
    for cells, direction in ((psnr[:4], "AtoB"), (psnr[4:], "BtoA")):
        scored = table[(table["direction"] == direction) & (table["scored"].astype(str) == "True")]
        measured, error = metrics[direction]["pair_psnr"], scored["pair_psnr"].std() / np.sqrt(5)
        value, _, shown_error = cells[0].partition(" ± ")
        assert float(value) == pytest.approx(measured, abs=0.0051)
        assert float(shown_error) == pytest.approx(error, abs=0.0051)
        assert float(cells[1]) == pytest.approx(metrics[direction]["identity"]["pair_psnr"], abs=0.0051)
        difference = scored["pair_psnr"] - scored["baseline_pair_psnr"]
        match = re.fullmatch(r"(better|worse) by (\S+) ± (\S+) dB", cells[3])
        assert match
        assert match[1] == ("better" if difference.mean() > 0 else "worse")
        expected = [abs(difference.mean()), difference.std() / np.sqrt(5)]
        assert [float(match[2]), float(match[3])] == pytest.approx(expected, abs=0.0051)
    kid = groups["All translations against all real images of the target"]["KID"]
    measured = metrics["AtoB"]
    assert kid[0].startswith(f"{measured['kid']:.4f} ± ")
    assert kid[1:3] == [f"{measured['identity']['kid']:.4f}", f"{measured['color_map']['kid']:.4f}"]
    # The color map was measured in one direction only.
    assert kid[6] == "–"


def test_a_verdict_needs_a_standard_error_below_the_difference(folder: Path) -> None:
    """The Fréchet distance, precision and recall have no error; cycle and identity are compared with perfection."""
    verdicts = [
        (group, name, verdict)
        for group, rows in table_of((folder / "report.html").read_text()).items()
        for name, cells in rows.items()
        for verdict in cells[3::4]
    ]
    assert {name for _, name, _ in verdicts} >= {"Fréchet distance", "Precision", "Recall", "KID", "PSNR, dB", "SSIM"}
    for group, name, verdict in verdicts:
        if name in ("Fréchet distance", "Precision", "Recall", "Diversity") or group.startswith(("Cycle", "Identity")):
            assert verdict == "–", name
        elif verdict.startswith(("better", "worse")):
            by, error = re.fullmatch(r"(?:better|worse) by (\S+) ± (\S+)(?: dB)?", verdict).groups()  # type: ignore[union-attr]
            assert float(by) >= float(error), name
        else:
            assert verdict == "–" or verdict.startswith("equal"), name


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.5, 0.1, "better by 0.50 ± 0.10 dB"),
        (-0.5, 0.1, "worse by 0.50 ± 0.10 dB"),
        (0.09, 0.1, "equal within 0.10 dB"),
        (-0.09, 0.1, "equal within 0.10 dB"),
        (0.002, 0.001, "better by 0.002 ± 0.001 dB"),
        (0.0, 0.0, "equal"),
        (0.5, float("nan"), "–"),
    ],
)
def test_verdicts(mean: float, error: float, verdict: str) -> None:
    assert IMAGE_SCALES["psnr"].verdict(Gain(mean, error)) == verdict


@pytest.mark.parametrize("paired", [True, False])
def test_one_image_gets_no_verdict(
    paired: bool, pack: Pack, linear: Linear, network: FeatureNetwork, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    dataset = pack(image, image // 2, pairs=[(0, 0, True)] if paired else [])
    translators = {direction: Translator(linear(np.eye(3) / 2, offset=-0.5)) for direction in ("AtoB", "BtoA")}
    evaluation = evaluate(translators, dataset, "test", RealImages(dataset, "test", network))
    assert "kid" not in evaluation.metrics["AtoB"]
    write_reports(tmp_path / "out", evaluation, draw(translators, dataset, evaluation, 2), title="one", run={})
    html = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'<td class="(better|worse)">', html)
    words = Page(html).words()
    assert MetricsTable(evaluation).tone() == "soft"
    assert words.count("has no verdict, because the test split has too few images") == 2
    assert ("1 scored true pair " in words) == paired
    assert " nan " not in words.lower()
    assert "KID" not in words.split("How this was measured")[0]


def test_the_table_scrolls_by_itself(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert html.count("<table") == html.count('<div class="scroll" tabindex="0"') == 1
    assert ".scroll { overflow-x: auto; }" in html


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_the_page_fits_a_phone(folder: Path, tmp_path: Path) -> None:
    html = (folder / "report.html").read_text()
    assert content_width(html.replace("0123abcd", 64 * "a"), 390, tmp_path) <= 390


def test_page_lists_the_findings(folder: Path) -> None:
    words = Page((folder / "report.html").read_text()).words()
    assert "No sign: output equals input. Output and input differ by" in words
    assert "Warning: D_<i>flat won. D_<i>flat has won, so its generator learns little from it" in words
    assert "No sign: D_3D. Over the last 10% of the training D_3D gave real images 0.70 and translations 0.30" in words


def test_page_names_features_and_checkpoint_but_never_fid(folder: Path) -> None:
    words = Page((folder / "report.html").read_text()).words()
    assert "Features: nine means pixels, 9 numbers for each image" in words
    assert "that of step 20 (epoch 2), the best on the validation split by kid (0.0123)" in words
    assert "There are fewer images than dimensions" not in words
    assert words.lower().count("fid") == words.count("none of them is the published FID or KID") == 1


def test_page_shows_the_run_and_the_protocol(folder: Path) -> None:
    words = Page((folder / "report.html").read_text()).words()
    assert "Commit 0123abcd" in words
    assert "Device" not in words
    assert "12 images of <i>flat and 12 of 3D, 8×8 pixels, 8 bits" in words
    assert "It has 12 true pairs; 5 of them are scored" in words


def test_best_and_worst_are_ranked_and_apart(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    section = html[html.index("flat → 3D: best and worst") : html.index("3D → &lt;i&gt;flat: best and worst")]
    best, worst = section.split("<h3>Worst 2</h3>")
    assert "<h3>Best 3</h3>" in best
    values = [[float(value) for value in re.findall(r"<b>(\S+) dB</b>", part)] for part in (best, worst)]
    table = pd.read_csv(folder / "per_image.csv")
    own = table[(table["direction"] == "AtoB") & (table["domain"] == "A") & (table["scored"].astype(str) == "True")]
    ranked = [round(value, 2) for value in sorted(own["pair_psnr"], reverse=True)]
    assert values[0] + values[1][::-1] == pytest.approx(ranked, abs=0.011)


def test_a_strip_shows_input_translation_and_partner(pack: Pack, linear: Linear) -> None:
    dataset, translators = dataset_and_translators(pack, linear)
    images = draw(translators, dataset, evaluate(translators, dataset, "test"), 3)
    pair = images.best["AtoB"][0]
    row = dataset.ids("A", "test").index(pair.name)
    one = dataset.images("A", "test")[[row]]
    shown = [one, translators["AtoB"].translate(one), dataset.images("B", "test")[[row]]]
    for left, expected in zip((0, 130, 260), shown, strict=True):
        np.testing.assert_array_equal(pair.strip[::16, left : left + 128 : 16], expected[0])


def test_no_pairs_no_history(pack: Pack, unchanged: dict[str, Translator], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    dataset = pack(images, images[:2])
    evaluation = evaluate(unchanged, dataset, "test")
    write_reports(tmp_path / "out", evaluation, draw(unchanged, dataset, evaluation, 8), title="plain", run={})
    page = Page((tmp_path / "out" / "report.html").read_text())
    words = page.words()
    assert "no scored true pairs" in words
    assert "best and worst" not in words
    assert "Training" not in words
    assert "MLflow run" not in words
    assert page.tags.count("img") == 2


def test_unequal_channels(pack: Pack, linear: Linear, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    dataset = pack(gray, np.repeat(gray, 3, axis=-1), pairs=[(0, 1, True)])
    translators = {"AtoB": Translator(linear(np.ones((1, 3)))), "BtoA": Translator(linear(np.full((3, 1), 1 / 3)))}
    evaluation = evaluate(translators, dataset, "test")
    write_reports(tmp_path / "out", evaluation, draw(translators, dataset, evaluation, 8), title="gray", run={})
    words = Page((tmp_path / "out" / "report.html").read_text()).words()
    assert words.count("has no identity baseline, because the channels differ") == 2


def test_every_panel_of_the_training_is_an_image_with_a_description(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    descriptions = re.findall(r'alt="([^"]*) over the epochs\. Last values: ([^"]*)\."', html)
    assert [title for title, _ in descriptions] == [
        "Validation: PSNR to the true partner",
        "Validation: KID",
        "Generators: total and adversarial loss",
        "Mean discriminator outputs",
    ]
    assert descriptions[1][1] == "&lt;i&gt;flat → 3D 0.1"
    encoded = re.search(r'src="data:image/png;base64,([^"]+)" alt="Validation: KID', html)
    assert encoded
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))
    # The line of direction AtoB is blue.
    assert (np.abs(image.astype(int) - [0, 114, 178]).sum(axis=-1) < 10).any()


def test_a_report_on_images_of_their_own_sizes(pack: Pack, linear: Linear, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a = [random.integers(0, 256, (8 + n, 20 - n, 3), dtype=np.uint8) for n in range(6)]
    dataset = pack(a, [image // 2 for image in a], pairs=[(n, n, True) for n in range(6)])
    translators = {direction: Translator(linear(np.eye(3) * 0.9)) for direction in ("AtoB", "BtoA")}
    evaluation = evaluate(translators, dataset, "test")
    images = draw(translators, dataset, evaluation, 4)
    assert images.grid.ndim == 3
    assert len(images.best["AtoB"]) == len(images.worst["BtoA"]) == 3
    write_reports(tmp_path / "out", evaluation, images, title="own sizes", run={})
    words = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).words()
    assert "images at their own sizes, 15…20 by 8…13 pixels, 8 bits a channel" in words
