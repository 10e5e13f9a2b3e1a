"""A generator joined with the networks that judge it: the tutorial's composite model."""

from __future__ import annotations

import keras


def build_composite(
    generator: keras.Model,
    discriminator: keras.Model,
    other_generator: keras.Model,
    name: str | None = None,
) -> keras.Model:
    """Join a generator with the networks that judge it, as the tutorial's `define_composite_model` does.

    For `G_AtoB` the inputs are a real A and a real B, each `[N, H, W, C]` in [-1, 1], and the four outputs, by name:

    - `adversarial`: `D_B(G_AtoB(A))`, the scores `[N, h, w, 1]`;
    - `identity`: `G_AtoB(B)`, absent if A and B have unequal channels;
    - `forward_cycle`: `G_BtoA(G_AtoB(A))`;
    - `backward_cycle`: `G_AtoB(G_BtoA(B))`.

    The composite shares the weights of its networks. It sets no `trainable` flag: Keras 3 reads the flags when it first
    traces a training function, so the tutorial's toggles would silently freeze the wrong networks. Take gradients for
    `generator.trainable_variables` instead, as `CycleGAN.train_step` does.
    """
    source = keras.Input(generator.input_shape[1:], name="source")
    target = keras.Input(other_generator.input_shape[1:], name="target")
    fake = generator(source)
    outputs = {
        "adversarial": discriminator(fake),
        "forward_cycle": other_generator(fake),
        "backward_cycle": generator(other_generator(target)),
    }
    if source.shape[-1] == target.shape[-1]:
        outputs["identity"] = generator(target)
    return keras.Model([source, target], outputs, name=name or f"composite_{generator.name}")
