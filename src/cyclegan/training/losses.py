"""The losses: the generators' terms, the discriminators' terms and penalties, and their weights.

All losses are means over all elements, in float32, as in the CycleGAN paper (Zhu et al. 2017, §3 and §4) and its
reference implementation.

To add a term to the generators' loss, write a function of `Passes`, add it to `GENERATOR_TERMS`, and add its weight,
with default 0, to `LossWeights` here and in `params/train.py`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from cyclegan.domains import Direction
from cyclegan.models.normalization import batches_are_independent
from cyclegan.training.diff_augment import Transform

AdversarialName = Literal["least_squares", "vanilla", "hinge", "wasserstein"]
UpdateOrder = Literal["joint", "sequential"]
ScoreLoss = Callable[[tf.Tensor], tf.Tensor]
# Scalars by name.
Losses = dict[str, tf.Tensor]
# Halves the discriminators' loss, so that they learn more slowly than the generators (paper, §7.1).
DISCRIMINATOR_WEIGHT = 0.5


@dataclass(frozen=True)
class AdversarialLoss:
    """Three scalar losses of a discriminator's scores `[N, h, w, 1]`, which are unbounded logits.

    `generator` and `real` want the scores high, `fake` wants them low. The discriminator's loss is
    `(real(D(x)) + fake(D(G(y)))) / 2`: the paper halves it to slow the discriminator down.
    """

    generator: ScoreLoss
    real: ScoreLoss
    fake: ScoreLoss


def adversarial_loss(name: AdversarialName, label_smoothing: float = 0.0) -> AdversarialLoss:
    """Return the adversarial loss of this name.

    - `least_squares`: Mao et al. 2017; used by the CycleGAN paper, §4.
    - `vanilla`: Goodfellow et al. 2014, non-saturating, on logits.
    - `hinge`: Lim and Ye 2017, Miyato et al. 2018.
    - `wasserstein`: Arjovsky et al. 2017; needs a gradient penalty.

    `label_smoothing` lowers the target of real images from 1 to `1 - label_smoothing` (Salimans et al. 2016,
    one-sided). Only the first two losses use it.

    Raises:
        ValueError: the name is unknown.
    """
    real_target = 1.0 - label_smoothing
    if name == "least_squares":
        return AdversarialLoss(
            generator=lambda score: mean(tf.square(score - 1.0)),
            real=lambda score: mean(tf.square(score - real_target)),
            fake=lambda score: mean(tf.square(score)),
        )
    if name == "vanilla":
        return AdversarialLoss(
            generator=lambda score: _cross_entropy(score, 1.0),
            real=lambda score: _cross_entropy(score, real_target),
            fake=lambda score: _cross_entropy(score, 0.0),
        )
    if name == "hinge":
        return AdversarialLoss(
            generator=lambda score: -mean(score),
            real=lambda score: mean(tf.nn.relu(1.0 - score)),
            fake=lambda score: mean(tf.nn.relu(1.0 + score)),
        )
    if name == "wasserstein":
        return AdversarialLoss(
            generator=lambda score: -mean(score),
            real=lambda score: -mean(score),
            fake=mean,
        )
    choices = ", ".join(get_args(AdversarialName))
    raise ValueError(f"adversarial_loss = {name!r}: must be one of {choices}")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of one generator's loss. The defaults are the paper's: λ = 10, identity 0.5 · λ."""

    adversarial: float = 1.0
    identity: float = 5.0
    forward_cycle: float = 10.0
    backward_cycle: float = 10.0

    def need(self, output: str) -> bool:
        """Whether a term with non-zero weight needs this field of `Passes`."""
        return any(getattr(self, name) and output in term.needs for name, term in GENERATOR_TERMS.items())


@keras.saving.register_keras_serializable(package="cyclegan")
@dataclass(frozen=True)
class Objective:
    """The training objective of all four networks.

    Attributes:
        loss_weights: weights for G_AtoB, and for G_BtoA unless `loss_weights_BtoA` is given. The cycle A→B→A is
            `forward_cycle` of G_AtoB and `backward_cycle` of G_BtoA. A term of weight 0 is logged as 0.
        loss_weights_BtoA: weights for G_BtoA.
        adversarial_loss, label_smoothing: see `adversarial_loss` in this module.
        gradient_penalty, r1_penalty: weights of the penalties, which count once per discriminator and step.
        diff_augment: transforms of `training.diff_augment` for every image that a discriminator sees, also in the
            generators' updates. The penalties use the transformed images.
    """

    loss_weights: LossWeights = LossWeights()
    loss_weights_BtoA: LossWeights | None = None
    adversarial_loss: AdversarialName = "least_squares"
    label_smoothing: float = 0.0
    gradient_penalty: float = 0.0
    r1_penalty: float = 0.0
    diff_augment: tuple[Transform, ...] = ()

    @property
    def weights(self) -> dict[Direction, LossWeights]:
        """The weights of each generator's terms."""
        return {"AtoB": self.loss_weights, "BtoA": self.loss_weights_BtoA or self.loss_weights}

    @property
    def score_loss(self) -> AdversarialLoss:
        """The losses of a discriminator's scores."""
        return adversarial_loss(self.adversarial_loss, self.label_smoothing)

    @property
    def has_penalty(self) -> bool:
        """Whether the discriminators' loss has a penalty."""
        return self.gradient_penalty > 0 or self.r1_penalty > 0

    def check(self, update_order: UpdateOrder, same_channels: bool) -> None:
        """Check that the weights fit the domains and the update order.

        Raises:
            ValueError: a term compares domains with different channels, or one cycle has two weights in `joint` order.
        """
        AtoB, BtoA = self.weights["AtoB"], self.weights["BtoA"]
        for name, term in GENERATOR_TERMS.items():
            if term.needs_equal_channels and not same_channels and (getattr(AtoB, name) or getattr(BtoA, name)):
                weights = f"{getattr(AtoB, name)}, {getattr(BtoA, name)}"
                raise ValueError(f"{name} = {weights}: needs equal channels in A and B; set LossWeights({name}=0)")
        if update_order == "joint" and (
            AtoB.forward_cycle != BtoA.backward_cycle or BtoA.forward_cycle != AtoB.backward_cycle
        ):
            raise ValueError(
                "update_order = 'joint': counts each cycle once, but its two weights differ; set forward_cycle of each "
                "generator to backward_cycle of the other"
            )

    def get_config(self) -> dict[str, Any]:
        return {**asdict(self), "diff_augment": list(self.diff_augment)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Objective:
        weights = {
            name: LossWeights(**config[name])
            for name in ("loss_weights", "loss_weights_BtoA")
            if config[name] is not None
        }
        return cls(**{**config, "diff_augment": tuple(config["diff_augment"]), **weights})


@dataclass(frozen=True)
class Passes:
    """The inputs of one generator's loss: a batch of each domain, and the outputs of the networks for it.

    All images are `[N, H, W, C]` in [-1, 1]. For G_AtoB the source is A and the target B. An output is None if no term
    with non-zero weight needs it.

    Attributes:
        real_source, real_target: real images of both domains.
        fake: the generator's translation of `real_source`.
        idt: the generator's output for `real_target`, which should equal it. For G_AtoB it is `idt_B`; the reference
            names it after its generator, `idt_A`.
        rec_source: `real_source` translated and back again.
        rec_target: `real_target` translated by the other generator and back again by this one.
        score: the discriminator's scores of `fake`, `[N, h, w, 1]`.
        score_loss: the adversarial loss in use.
    """

    real_source: tf.Tensor
    real_target: tf.Tensor
    fake: tf.Tensor
    idt: tf.Tensor | None = None
    rec_source: tf.Tensor | None = None
    rec_target: tf.Tensor | None = None
    score: tf.Tensor | None = None
    score_loss: AdversarialLoss = field(default_factory=lambda: adversarial_loss("least_squares"))


@dataclass(frozen=True)
class GeneratorTerm:
    """One term of a generator's loss.

    Attributes:
        loss: the unweighted term, a scalar.
        needs: the fields of `Passes` that it reads, beside the real images and `fake`, which are always present.
        needs_equal_channels: whether it compares images of both domains.
    """

    loss: Callable[[Passes], tf.Tensor]
    needs: tuple[str, ...] = ()
    needs_equal_channels: bool = False


# The terms of a generator's loss, by their names in `LossWeights` and in all logs.
GENERATOR_TERMS: Mapping[str, GeneratorTerm] = {
    "adversarial": GeneratorTerm(lambda passes: passes.score_loss.generator(passes.score), needs=("score",)),
    "identity": GeneratorTerm(
        lambda passes: absolute_error(passes.idt, passes.real_target), needs=("idt",), needs_equal_channels=True
    ),
    "forward_cycle": GeneratorTerm(
        lambda passes: absolute_error(passes.rec_source, passes.real_source), needs=("rec_source",)
    ),
    "backward_cycle": GeneratorTerm(
        lambda passes: absolute_error(passes.rec_target, passes.real_target), needs=("rec_target",)
    ),
}


def generator_terms(passes: Passes, weights: LossWeights) -> Losses:
    """The unweighted terms of one generator's loss; 0 for terms of weight 0."""
    zero = tf.zeros((), passes.real_target.dtype)
    return {name: term.loss(passes) if getattr(weights, name) else zero for name, term in GENERATOR_TERMS.items()}


def weighted(terms: Losses, weights: LossWeights) -> tf.Tensor:
    """The weighted sum of a generator's terms, without terms of weight 0."""
    parts = [
        tf.cast(getattr(weights, name), terms[name].dtype) * terms[name]
        for name in GENERATOR_TERMS
        if getattr(weights, name)
    ]
    # For a single sum of three values by tf.add_n, TensorFlow examines the memory of the whole graph, for seconds.
    return functools.reduce(operator.add, parts) if parts else tf.zeros_like(terms["adversarial"])


def joint_objective(terms: Mapping[Direction, Losses], objective: Objective) -> tf.Tensor:
    """The sum of both generators' losses, in which each cycle counts once.

    Both generators have a term for each cycle: one forward, the other backward, with equal weight.
    """
    AtoB, BtoA = (
        weighted(terms[direction], replace(objective.weights[direction], backward_cycle=0.0))
        for direction in ("AtoB", "BtoA")
    )
    return AtoB + BtoA


def discriminator_terms(
    discriminator: keras.Model,
    real: tf.Tensor,
    fake: tf.Tensor,
    mix: tf.Tensor | None,
    objective: Objective,
    training: bool = True,
) -> Losses:
    """A discriminator's loss on real images and translations together, its parts, and its mean scores.

    Args:
        discriminator: maps `[N, H, W, C]` to scores.
        real, fake: augmented images `[N, H, W, C]` in [-1, 1].
        mix: see `gradient_penalty`; None if this penalty has no weight.
        objective: the loss, and the weights of the penalties.
        training: whether to update the discriminator's state, such as statistics of normalizations.
    """
    if batches_are_independent(discriminator):
        score_real, score_fake = tf.split(discriminator(tf.concat([real, fake], axis=0), training=training), 2)
    else:
        score_real, score_fake = discriminator(real, training=training), discriminator(fake, training=training)
    terms = {
        "real": objective.score_loss.real(score_real),
        "fake": objective.score_loss.fake(score_fake),
        "output_real": mean(score_real),
        "output_fake": mean(score_fake),
    }
    total = DISCRIMINATOR_WEIGHT * (terms["real"] + terms["fake"])
    if objective.has_penalty:
        terms["penalty"] = penalty(discriminator, real, fake, mix, objective, training)
        total += terms["penalty"]
    return {**terms, "total": total}


def penalty(
    discriminator: keras.Model,
    real: tf.Tensor,
    fake: tf.Tensor,
    mix: tf.Tensor | None,
    objective: Objective,
    training: bool = True,
) -> tf.Tensor:
    """The weighted sum of the gradient penalties; for the arguments see `discriminator_terms`."""
    total = tf.zeros((), real.dtype)
    if mix is not None:
        total += objective.gradient_penalty * gradient_penalty(discriminator, real, fake, mix, training)
    if objective.r1_penalty:
        total += objective.r1_penalty * r1_penalty(discriminator, real, training)
    # The discriminator's loss is halved, so halve the penalty too: its weight then means the same as in the papers.
    return DISCRIMINATOR_WEIGHT * total


def loss_names(objective: Objective) -> list[str]:
    """The names of all values that a training step returns."""
    discriminator_values = ["total", "real", "fake", "output_real", "output_fake"]
    if objective.has_penalty:
        discriminator_values.append("penalty")
    return [f"{G}/{term}" for G in ("G_AtoB", "G_BtoA") for term in ("total", *GENERATOR_TERMS)] + [
        f"{D}/{term}" for D in ("D_A", "D_B") for term in discriminator_values
    ]


def named_losses(
    objective: Objective, terms_AtoB: Losses, terms_BtoA: Losses, terms_A: Losses, terms_B: Losses
) -> Losses:
    """All losses of a step by the names of `loss_names`, from the terms of both generators and discriminators.

    A generator's `total` is its own weighted sum, as in its composite model. In `joint` order the objective is the sum
    of both totals minus both backward cycles, which are the forward cycles of the other generator.
    """
    networks = {
        "G_AtoB": {"total": weighted(terms_AtoB, objective.weights["AtoB"]), **terms_AtoB},
        "G_BtoA": {"total": weighted(terms_BtoA, objective.weights["BtoA"]), **terms_BtoA},
        "D_A": terms_A,
        "D_B": terms_B,
    }
    return {f"{network}/{term}": value for network, terms in networks.items() for term, value in terms.items()}


def gradient_penalty(
    discriminator: keras.Model, real: tf.Tensor, fake: tf.Tensor, mix: tf.Tensor, training: bool = True
) -> tf.Tensor:
    """WGAN-GP: mean of `(‖∇D(x̂)‖₂ - 1)²` over images x̂ between real and fake (Gulrajani et al. 2017, eq. 3).

    Args:
        discriminator: maps `[N, H, W, C]` to scores.
        real, fake: images `[N, H, W, C]` in [-1, 1].
        mix: `[N, 1, 1, 1]` in [0, 1], the share of the real image.
        training: whether to update the discriminator's state, such as statistics of normalizations.
    """
    between = mix * real + (1.0 - mix) * fake
    norm = tf.sqrt(_squared_gradient_norm(discriminator, between, training) + 1e-12)
    return mean(tf.square(norm - 1.0))


def r1_penalty(discriminator: keras.Model, real: tf.Tensor, training: bool = True) -> tf.Tensor:
    """R1: half the mean of `‖∇D(x)‖²` on real images `[N, H, W, C]` (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * mean(_squared_gradient_norm(discriminator, real, training))


def _squared_gradient_norm(discriminator: keras.Model, images: tf.Tensor, training: bool) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        score = tf.reduce_sum(tf.reduce_mean(discriminator(images, training=training), axis=[1, 2, 3]))
    return tf.reduce_sum(tf.square(tape.gradient(score, images)), axis=[1, 2, 3])


def mean(values: tf.Tensor) -> tf.Tensor:
    """Mean over all elements."""
    return tf.reduce_mean(values)


def absolute_error(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference of two batches of images `[N, H, W, C]` in [-1, 1]: cycle and identity losses."""
    return mean(tf.abs(first - second))


def _cross_entropy(score: tf.Tensor, target: float) -> tf.Tensor:
    return mean(
        tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.fill(tf.shape(score), tf.cast(target, score.dtype)), logits=score
        )
    )
