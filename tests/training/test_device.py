"""What `train.mixed_precision: auto` chooses, from the properties of a device alone."""

from __future__ import annotations

import pytest

from cyclegan.training.device import has_fast_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "instructions", "onednn", "expected"),
    [
        ([], {"avx512f", "avx512_bf16"}, None, True),
        ([], {"amx_bf16", "amx_tile"}, "1", True),
        ([], {"avx2", "avx512f", "avx512_vnni"}, None, False),
        ([], set(), None, False),
        # Without oneDNN, TensorFlow has no code for these instructions.
        ([], {"avx512_bf16"}, "0", False),
        ([(8, 0)], set(), None, True),
        ([(9, 0), (9, 0)], set(), "0", True),
        # A T4 and a V100, beside a CPU that has the instructions.
        ([(7, 5)], {"avx512_bf16"}, None, False),
        ([(9, 0), (7, 0)], {"avx512_bf16"}, None, False),
        ([None], {"avx512_bf16"}, None, False),
    ],
)
def test_auto_follows_from_the_device(
    capabilities: list[tuple[int, int] | None], instructions: set[str], onednn: str | None, expected: bool
) -> None:
    assert has_fast_bfloat16(capabilities, instructions, onednn) is expected
