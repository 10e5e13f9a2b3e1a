from __future__ import annotations

import numpy as np
import pandas as pd

from cyclegan.report.curves import curves


def drawn(history: pd.DataFrame) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Panel → label → (x, y)."""
    figure = curves(history)
    assert figure is not None
    return {
        axis.get_title(): {
            str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()
        }
        for axis in figure.axes
        if axis.get_visible()
    }


def test_every_series_finds_its_panel() -> None:
    history = pd.DataFrame(
        {
            "step": [10, 20],
            "epoch": [0.5, 1.0],
            "G_AtoB/total": [3.0, 2.0],
            "G_AtoB/forward_cycle": [0.3, 0.2],
            "D_A/real": [0.2, 0.25],
            "D_A/output_real": [0.9, 0.8],
            "D_B/fake": [0.1, 0.2],
            "D_B/output_fake": [0.1, 0.2],
            "learning_rate": [2e-4, 1e-4],
            "val_AtoB/n": [5, 5],
            "val_AtoB/pair_psnr": [np.nan, 20.0],
            "val_AtoB/identity/pair_psnr": [np.nan, 19.0],
            "val_BtoA/cycle_l1": [np.nan, 0.1],
            "val/BtoA/cycle_ssim": [np.nan, np.nan],
        }
    )
    assert drawn(history) == {
        "G_AtoB: losses": {"total": ([0.5, 1.0], [3.0, 2.0]), "forward cycle": ([0.5, 1.0], [0.3, 0.2])},
        "D_A: losses": {"real": ([0.5, 1.0], [0.2, 0.25])},
        "D_B: losses": {"fake": ([0.5, 1.0], [0.1, 0.2])},
        "Mean discriminator output": {"D_A real": ([0.5, 1.0], [0.9, 0.8]), "D_B fake": ([0.5, 1.0], [0.1, 0.2])},
        "Validation A → B: PSNR, dB": {"pair": ([1.0], [20.0]), "identity baseline": ([1.0], [19.0])},
        "Validation B → A: L1, 0…1": {"cycle": ([1.0], [0.1])},
    }


def test_nothing_to_draw() -> None:
    assert curves(pd.DataFrame({"step": [1], "epoch": [0.1], "learning_rate": [2e-4]})) is None
