from __future__ import annotations

import numpy as np
import pandas as pd

from cyclegan.domains import PLAIN_NAMES, DomainNames
from cyclegan.report.curves import panels


def lines(history: pd.DataFrame, names: DomainNames = PLAIN_NAMES) -> dict[str, dict[str, str]]:
    """Panel → label → series."""
    return {panel.title: {line.label: line.series for line in panel.lines} for panel in panels(history, names)}


HISTORY = pd.DataFrame(
    {
        "step": [10, 20],
        "epoch": [0.5, 1.0],
        "G_AtoB/total": [3.0, 2.0],
        "G_AtoB/adversarial": [1.0, 0.5],
        "G_AtoB/forward_cycle": [0.3, 0.2],
        "G_AtoB/brightness": [0.3, 0.2],
        "G_BtoA/backward_cycle": [0.3, 0.2],
        "G_BtoA/forward_cycle": [0.4, 0.2],
        "G_BtoA/identity": [0.0, 0.0],
        "D_A/total": [0.2, 0.25],
        "D_A/real": [0.2, 0.25],
        "D_A/output_real": [0.9, 0.8],
        "D_B/output_fake": [0.1, 0.2],
        "learning_rate": [2e-4, 1e-4],
        "val_AtoB/n": [np.nan, np.nan],
        "val_AtoB/cycle_l1": [np.nan, 0.1],
        "val_AtoB/kid": [np.nan, 0.02],
        "val_BtoA/kid": [np.nan, 0.03],
        "val_AtoB/pair_psnr": [np.nan, 20.0],
        "val_AtoB/identity/pair_psnr": [np.nan, 19.0],
        "val/BtoA/cycle_ssim": [np.nan, 0.5],
    }
)


def test_every_series_finds_its_panel() -> None:
    """Validation comes first. Cycle and identity have their own axes, and a cycle appears once."""
    found = lines(HISTORY)
    assert found == {
        "Validation: PSNR to the true partner": {
            "A → B": "val_AtoB/pair_psnr",
            "A → B (identity baseline)": "val_AtoB/identity/pair_psnr",
        },
        "Validation: KID": {"A → B": "val_AtoB/kid", "B → A": "val_BtoA/kid"},
        "Validation: Cycle error": {"A → B": "val_AtoB/cycle_l1"},
        "Generators: total and adversarial loss": {
            "A → B, total": "G_AtoB/total",
            "A → B, adversarial": "G_AtoB/adversarial",
        },
        "Cycle loss": {"A → B → A": "G_AtoB/forward_cycle", "B → A → B": "G_BtoA/forward_cycle"},
        "Discriminator losses": {"D of A": "D_A/total"},
        "Mean discriminator outputs": {"D of A, real": "D_A/output_real", "D of B, translated": "D_B/output_fake"},
        "Generators: brightness loss": {"A → B": "G_AtoB/brightness"},
    }
    assert next(iter(found)).startswith("Validation")
    assert list(found)[-1] == "Generators: brightness loss"


def test_domain_names_label_the_lines() -> None:
    found = lines(HISTORY, DomainNames("flat", "3D"))
    assert set(found["Validation: KID"]) == {"flat → 3D", "3D → flat"}
    assert set(found["Cycle loss"]) == {"flat → 3D → flat", "3D → flat → 3D"}


def test_the_legend_covers_no_curve_and_the_kept_epoch_is_marked() -> None:
    panel = next(panel for panel in panels(HISTORY) if panel.title == "Validation: KID")
    figure = panel.draw(HISTORY, kept_epoch=1.0)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    one, other, kept = axis.get_lines()
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([1.0], [0.02])
    assert list(other.get_ydata()) == [0.03]
    assert set(kept.get_xdata()) == {1.0}
    legend = axis.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["A → B", "B → A", "kept: epoch 1"]
    assert legend.get_window_extent().y0 >= axis.get_window_extent().y1
    assert "A → B 0.02, B → A 0.03" in panel.describe(HISTORY)


def test_nothing_to_draw() -> None:
    assert panels(pd.DataFrame({"step": [1], "epoch": [0.1], "learning_rate": [2e-4]})) == []
