"""CycleGAN as a Keras model: what is updated, on what, in which order.

Read `train_step` first, then `_joint_step` (the default) and `_sequential_step` (the tutorial's order). Gradients are
always taken for an explicit list of variables; no `trainable` flag is ever toggled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import keras
import tensorflow as tf

from cyclegan.domains import Direction, Domain
from cyclegan.models.normalization import batches_are_independent
from cyclegan.training.adam import FusedAdam
from cyclegan.training.averages import copy_of, follow
from cyclegan.training.diff_augment import Transform, diff_augment, draws_for
from cyclegan.training.draws import uniform
from cyclegan.training.losses import (
    GENERATOR_TERMS,
    AdversarialName,
    Losses,
    LossWeights,
    absolute_error,
    adversarial_loss,
    gradient_penalty,
    mean,
    r1_penalty,
    weighted,
)
from cyclegan.training.pool import ImagePool
from cyclegan.training.recompute import recomputing
from cyclegan.training.running_means import MeanOfEach
from cyclegan.training.tensor_cores import pad_channels

UpdateOrder = Literal["joint", "sequential"]
DISCRIMINATOR_WEIGHT = 0.5
"""Halves the discriminators' loss, so that they learn more slowly than the generators (paper, §7.1)."""


@keras.saving.register_keras_serializable(package="cyclegan")
class CycleGAN(keras.Model):
    """Two generators and two discriminators trained on unpaired pictures (Zhu et al. 2017).

    `fit` takes batches `(real_A, real_B)`, each `[N, H, W, C]` float in [-1, 1]; N must be fixed. `evaluate` takes such
    batches of any N and returns the losses. Calling the model, and `predict`, return `(G_AtoB(real_A),
    G_BtoA(real_B))`. Everything training depends on is a variable of the model: the networks, their averages, the
    optimizers, the image pools and the step counter, from which all random choices follow.

    Args:
        G_AtoB, G_BtoA: generators, `[N, H, W, C]` → the other domain's `[N, H, W, C]`, in [-1, 1].
        D_A, D_B: discriminators of real and translated pictures of their domain, `[N, H, W, C]` → `[N, h, w, 1]`.
        image_size: `(H, W)` of the training pictures, which fixes the size of the pools.
        update_order: `joint` updates both generators in one step on the sum of all terms with each cycle counted once,
            then both discriminators (the reference implementation). `sequential` updates G_BtoA, D_A on a real and then
            on a fake picture, G_AtoB, and D_B likewise (the tutorial and the original Torch code).
        pool_size: pictures held in each image pool; 0 for none.
        discriminator_batch: real pictures, and translations, that a discriminator learns from in a step. Those beyond
            the batch's own are drawn from its image pool and from one of real pictures. It needs `pool_size` above 0,
            and must itself be above the batch size. None: the batch's own only.
        ema_decay: weight decay of the exponential moving average of the generators' weights, which `generators` then
            returns; 0 for none.
        keep_best: hold a copy of `generators` as they were at the last call of `keep`.
        seed: seed of all random choices of a step, below 2^38.

    Raises:
        ValueError: `discriminator_batch` without image pools, or, in the first step, no more than the batch size.
    """

    def __init__(
        self,
        G_AtoB: keras.Model,
        G_BtoA: keras.Model,
        D_A: keras.Model,
        D_B: keras.Model,
        *,
        image_size: tuple[int, int],
        update_order: UpdateOrder = "joint",
        pool_size: int = 50,
        discriminator_batch: int | None = None,
        ema_decay: float = 0.0,
        keep_best: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if discriminator_batch is not None and pool_size == 0:
            raise ValueError("discriminator_batch draws from the image pools: set pool_size above 0, or None for it")
        super().__init__(**kwargs)
        self.G_AtoB, self.G_BtoA, self.D_A, self.D_B = G_AtoB, G_BtoA, D_A, D_B
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.update_order = update_order
        self.pool_size = pool_size
        self.discriminator_batch = discriminator_batch
        self.ema_decay = ema_decay
        self.keep_best = keep_best
        self.seed = seed
        self.pool_A, self.pool_B = self._pool("A"), self._pool("B")
        self.pool_real_A = self._pool("real_A") if discriminator_batch is not None else None
        self.pool_real_B = self._pool("real_B") if discriminator_batch is not None else None
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.learning_rate_factor = self.add_weight(
            name="learning_rate_factor", shape=(), dtype="float32", initializer="ones", trainable=False
        )
        self.ema_AtoB = copy_of(G_AtoB, "average") if ema_decay > 0 else None
        self.ema_BtoA = copy_of(G_BtoA, "average") if ema_decay > 0 else None
        self.kept_AtoB = copy_of(G_AtoB, "kept") if keep_best else None
        self.kept_BtoA = copy_of(G_BtoA, "kept") if keep_best else None
        self._same_channels = D_A.input_shape[-1] == D_B.input_shape[-1]
        self.built = True

    @property
    def generators(self) -> dict[Direction, keras.Model]:
        """The generators as training has brought them: the averaged ones where there is an average."""
        return {"AtoB": self.ema_AtoB or self.G_AtoB, "BtoA": self.ema_BtoA or self.G_BtoA}

    @property
    def kept_generators(self) -> dict[Direction, keras.Model]:
        """What a training results in: with `keep_best` the generators of the last `keep`, else `generators`."""
        if self.kept_AtoB is None or self.kept_BtoA is None:
            return self.generators
        return {"AtoB": self.kept_AtoB, "BtoA": self.kept_BtoA}

    def keep(self) -> None:
        """Keep the generators as they are now, in place of those kept before.

        Raises:
            ValueError: the model was made without `keep_best`.
        """
        if not self.keep_best:
            raise ValueError("make the model with keep_best=True")
        for direction, kept in self.kept_generators.items():
            for variable, new in zip(kept.variables, self.generators[direction].variables, strict=True):
                variable.assign(new.value)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        real_A, real_B = inputs
        return self.generators["AtoB"](real_A, training=training), self.generators["BtoA"](real_B, training=training)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        *,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
        loss_weights: LossWeights | None = None,
        loss_weights_BtoA: LossWeights | None = None,
        adversarial: AdversarialName = "least_squares",
        label_smoothing: float = 0.0,
        gradient_penalty_weight: float = 0.0,
        r1_weight: float = 0.0,
        diff_augment: Sequence[Transform] = (),
        gradient_checkpointing: bool = False,
        jit_compile: bool | Literal["auto"] = "auto",
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ) -> None:
        """Choose what is optimised and how.

        Args:
            optimizer: a pattern, or Keras' name of one, copied for each group of networks that is updated together (two
                in `joint` order, four in `sequential`); default `FusedAdam(2e-4, beta_1=0.5)`, the paper's.
            schedule: learning rate as a function of the *training* step, multiplied by `learning_rate_factor`, which
                starts at 1 and is lowered from outside (see `training.plateau`); default: the optimizer's own rate.
            loss_weights: weights for G_AtoB, and for G_BtoA unless `loss_weights_BtoA` is given. `forward_cycle` of
                G_AtoB is A→B→A and so is `backward_cycle` of G_BtoA. A term of weight 0 is not computed; it is
                reported as 0.
            adversarial: see `losses.adversarial_loss`.
            label_smoothing: see `losses.adversarial_loss`.
            gradient_penalty_weight, r1_weight: weights of the penalties in `losses`, which count once per discriminator
                and step.
            diff_augment: transforms of `training.diff_augment`, by which every picture that a discriminator sees is
                altered, in the generators' updates too; the penalties are taken at the altered pictures.
            gradient_checkpointing: compute the insides of the generators' residual blocks again for the gradient
                instead of keeping them; see `training.recompute`.
            jit_compile: `auto` compiles with XLA on a GPU only; on a CPU it was measured to be slower. On a GPU the
                networks' convolutions are padded too, see `training.tensor_cores`.
            steps_per_execution, run_eagerly: as in `keras.Model.compile`.

        Raises:
            ValueError: generators that `training.recompute` refuses, or weights that cannot be honoured: an identity
                loss between unequal channels, or, in `joint` order, two different weights for the same cycle.
        """
        weights_AtoB = loss_weights or LossWeights()
        weights_BtoA = loss_weights_BtoA or weights_AtoB
        if not self._same_channels and (weights_AtoB.identity or weights_BtoA.identity):
            raise ValueError("the identity loss needs equal channels in A and B: set LossWeights(identity=0)")
        if self.update_order == "joint" and (
            weights_AtoB.forward_cycle != weights_BtoA.backward_cycle
            or weights_BtoA.forward_cycle != weights_AtoB.backward_cycle
        ):
            raise ValueError("update_order='joint' counts each cycle once: its two weights must be equal")
        on_gpu = bool(tf.config.get_visible_devices("GPU"))
        if on_gpu:
            for network in (self.G_AtoB, self.G_BtoA, self.D_A, self.D_B):
                pad_channels(network)
        # Not Keras' own default, which would be reported as if it were in use.
        super().compile(
            optimizer=None,
            jit_compile=on_gpu if jit_compile == "auto" else jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        pattern = keras.optimizers.get(optimizer) if optimizer is not None else FusedAdam(2e-4, beta_1=0.5)
        self.schedule = schedule
        self.weights_AtoB, self.weights_BtoA = weights_AtoB, weights_BtoA
        self._adversarial = adversarial_loss(adversarial, label_smoothing)
        self._gradient_penalty_weight = gradient_penalty_weight
        self._r1_weight = r1_weight
        self._transforms = tuple(diff_augment)
        self._recomputing = (
            {id(generator): recomputing(generator) for generator in (self.G_AtoB, self.G_BtoA)}
            if gradient_checkpointing
            else {}
        )
        self.optimizers = {
            name: _fresh(pattern, [variable for network in group for variable in network.trainable_variables])
            for name, group in self._groups().items()
        }
        self.optimizer = _Optimizers(self)
        self._means = MeanOfEach(self._series())
        self._compile_arguments = {
            "optimizer": pattern,
            "schedule": schedule,
            "loss_weights": asdict(weights_AtoB),
            "loss_weights_BtoA": asdict(weights_BtoA),
            "adversarial": adversarial,
            "label_smoothing": label_smoothing,
            "gradient_penalty_weight": gradient_penalty_weight,
            "r1_weight": r1_weight,
            "diff_augment": list(diff_augment),
            "gradient_checkpointing": gradient_checkpointing,
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._means] if self.compiled else []

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> Losses:
        """Update all four networks once on real pictures of both domains, `[N, H, W, C]` in [-1, 1].

        Returns the running means of every loss since the metrics were last reset, each measured before its own update.
        """
        real_A, real_B = _pair(data)
        if None in (real_A.shape[0], real_B.shape[0]):
            raise ValueError(
                "x: all batches must have one size, for the image pools; use batch(…, drop_remainder=True)"
            )
        if self.discriminator_batch is not None and self.discriminator_batch <= real_A.shape[0]:
            raise ValueError(
                f"discriminator_batch = {self.discriminator_batch} is no more than the batch size, {real_A.shape[0]}: "
                "raise it, or set it to None"
            )
        if self.schedule is not None:
            rate = self.schedule(self.step.value) * self.learning_rate_factor.value
            for optimizer in self.optimizers.values():
                optimizer.learning_rate = tf.cast(rate, optimizer.learning_rate.dtype)
        take_step = self._joint_step if self.update_order == "joint" else self._sequential_step
        self._means.update_state(take_step(real_A, real_B))
        if self.ema_AtoB is not None and self.ema_BtoA is not None:
            follow(self.ema_AtoB, self.G_AtoB, self.ema_decay, self.step.value)
            follow(self.ema_BtoA, self.G_BtoA, self.ema_decay, self.step.value)
        self.step.assign_add(1)
        return self._means.result()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> Losses:
        """The losses of `train_step` for `generators`, without an update and without the image pools."""
        real_A, real_B = _pair(data)
        G_AtoB, G_BtoA = self.generators["AtoB"], self.generators["BtoA"]
        AtoB, BtoA = self.weights_AtoB, self.weights_BtoA
        fake_B, fake_A = self.call((real_A, real_B))
        same_B = G_AtoB(real_B, training=False) if AtoB.identity else None
        same_A = G_BtoA(real_A, training=False) if BtoA.identity else None
        around_A, around_B = AtoB.forward_cycle or BtoA.backward_cycle, BtoA.forward_cycle or AtoB.backward_cycle
        cycle_A = self._cycle(G_BtoA, fake_B, real_A, around_A, training=False)
        cycle_B = self._cycle(G_AtoB, fake_A, real_B, around_B, training=False)
        losses = self._report(
            self._generator_terms("B", fake_B, same_B, real_B, forward=cycle_A, backward=cycle_B, training=False),
            self._generator_terms("A", fake_A, same_A, real_A, forward=cycle_B, backward=cycle_A, training=False),
            self._discriminator_terms("A", real_A, fake_A, training=False),
            self._discriminator_terms("B", real_B, fake_B, training=False),
        )
        self._means.update_state(losses)
        return self._means.result()

    def predict_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """The translations of both pictures of each pair."""
        return self(_pair(data), training=False)

    def _joint_step(self, real_A: tf.Tensor, real_B: tf.Tensor) -> Losses:
        """Both generators on the sum of all terms, then both discriminators (reference: `optimize_parameters`)."""
        generators = self.G_AtoB.trainable_variables + self.G_BtoA.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(_values(generators))
            fake_B, same_B = self._translate_both(self.G_AtoB, real_A, real_B)
            fake_A, same_A = self._translate_both(self.G_BtoA, real_B, real_A)
            # Each cycle has one weight here: forward for one generator and backward for the other.
            cycle_A = self._cycle(self.G_BtoA, fake_B, real_A, self.weights_AtoB.forward_cycle)
            cycle_B = self._cycle(self.G_AtoB, fake_A, real_B, self.weights_BtoA.forward_cycle)
            terms_AtoB = self._generator_terms("B", fake_B, same_B, real_B, forward=cycle_A, backward=cycle_B)
            terms_BtoA = self._generator_terms("A", fake_A, same_A, real_A, forward=cycle_B, backward=cycle_A)
            # Each cycle stands in both generators' terms; the objective counts it once, with its forward weight.
            once = replace(self.weights_AtoB, backward_cycle=0.0), replace(self.weights_BtoA, backward_cycle=0.0)
            objective = weighted(terms_AtoB, once[0]) + weighted(terms_BtoA, once[1])
        self._descend("G", tape, objective, generators)

        shown_A, shown_B = self._shown("A", real_A, fake_A), self._shown("B", real_B, fake_B)
        discriminators = self.D_A.trainable_variables + self.D_B.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(_values(discriminators))
            terms_A = self._discriminator_terms("A", *shown_A)
            terms_B = self._discriminator_terms("B", *shown_B)
            objective = terms_A["total"] + terms_B["total"]
        self._descend("D", tape, objective, discriminators)
        return self._report(terms_AtoB, terms_BtoA, terms_A, terms_B)

    def _sequential_step(self, real_A: tf.Tensor, real_B: tf.Tensor) -> Losses:
        """G_BtoA, D_A (real, then fake), G_AtoB, D_B (real, then fake), each with its own optimizer.

        The fakes for both pools come from the weights at the start of the step; G_AtoB sees the updated G_BtoA. Equal
        to the tutorial's `train_on_batch` calls, with the passes that they share computed once.
        """
        weights_AtoB, weights_BtoA = self.G_AtoB.trainable_variables, self.G_BtoA.trainable_variables
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape_AtoB,
            tf.GradientTape(watch_accessed_variables=False) as tape_BtoA,
        ):
            tape_AtoB.watch(_values(weights_AtoB))
            tape_BtoA.watch(_values(weights_BtoA))
            fake_B, same_B = self._translate_both(self.G_AtoB, real_A, real_B)
            fake_A, same_A = self._translate_both(self.G_BtoA, real_B, real_A)
        shown_A, shown_B = self._shown("A", real_A, fake_A), self._shown("B", real_B, fake_B)

        with tape_BtoA:
            weights = self.weights_BtoA
            cycle_B = self._cycle(self.G_AtoB, fake_A, real_B, weights.forward_cycle)
            cycle_A = self._cycle(self.G_BtoA, tf.stop_gradient(fake_B), real_A, weights.backward_cycle)
            terms_BtoA = self._generator_terms("A", fake_A, same_A, real_A, forward=cycle_B, backward=cycle_A)
            objective = weighted(terms_BtoA, weights)
        self._descend("G_BtoA", tape_BtoA, objective, weights_BtoA)
        terms_A = self._discriminate_in_turn("A", *shown_A)

        with tape_AtoB:
            weights = self.weights_AtoB
            cycle_A = self._cycle(self.G_BtoA, fake_B, real_A, weights.forward_cycle)
            again_A = self._translate(self.G_BtoA, real_B) if weights.backward_cycle else fake_A
            cycle_B = self._cycle(self.G_AtoB, again_A, real_B, weights.backward_cycle)
            terms_AtoB = self._generator_terms("B", fake_B, same_B, real_B, forward=cycle_A, backward=cycle_B)
            objective = weighted(terms_AtoB, weights)
        self._descend("G_AtoB", tape_AtoB, objective, weights_AtoB)
        terms_B = self._discriminate_in_turn("B", *shown_B)
        return self._report(terms_AtoB, terms_BtoA, terms_A, terms_B)

    def _translate_both(
        self, generator: keras.Model, source: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """`(generator(source), generator(target))`: the translation, and the identity output where it is needed.

        One batch for both where that gives the same numbers, that is, unless batch normalisation mixes pictures.
        """
        weights = self.weights_AtoB if generator is self.G_AtoB else self.weights_BtoA
        if weights.identity == 0:
            return self._translate(generator, source), None
        if batches_are_independent(generator):
            fake, same = tf.split(self._translate(generator, tf.concat([source, target], axis=0)), 2)
            return fake, same
        return self._translate(generator, source), self._translate(generator, target)

    def _translate(self, generator: keras.Model, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """A generator's pass."""
        if training and id(generator) in self._recomputing:
            return self._recomputing[id(generator)](images)
        return generator(images, training=training)

    def _cycle(
        self, generator: keras.Model, fake: tf.Tensor, real: tf.Tensor, weight: float, training: bool = True
    ) -> tf.Tensor:
        """The cycle loss of the way back from `fake` to `real`; 0, without that way, where it has no weight."""
        if weight == 0:
            return tf.zeros((), real.dtype)
        return absolute_error(self._translate(generator, fake, training), real)

    def _generator_terms(
        self,
        domain: Domain,
        fake: tf.Tensor,
        same: tf.Tensor | None,
        real: tf.Tensor,
        *,
        forward: tf.Tensor,
        backward: tf.Tensor,
        training: bool = True,
    ) -> Losses:
        """The four unweighted terms of the loss of the generator into `domain`; 0 for those without a weight."""
        zero = tf.zeros((), real.dtype)
        adversarial = zero
        if (self.weights_AtoB if domain == "B" else self.weights_BtoA).adversarial:
            score = self._discriminator(domain)(self._augmented(fake, f"fake_{domain} for G"), training=training)
            adversarial = self._adversarial.generator(score)
        return {
            "adversarial": adversarial,
            "identity": zero if same is None else absolute_error(same, real),
            "forward_cycle": forward,
            "backward_cycle": backward,
        }

    def _discriminator(self, domain: Domain) -> keras.Model:
        return self.D_A if domain == "A" else self.D_B

    def _discriminator_terms(self, domain: Domain, real: tf.Tensor, fake: tf.Tensor, training: bool = True) -> Losses:
        """One discriminator's loss on real pictures and pooled fakes together."""
        discriminator = self._discriminator(domain)
        real, fake = self._augmented(real, f"real_{domain}"), self._augmented(fake, f"fake_{domain}")
        if batches_are_independent(discriminator):
            score_real, score_fake = tf.split(discriminator(tf.concat([real, fake], axis=0), training=training), 2)
        else:
            score_real, score_fake = discriminator(real, training=training), discriminator(fake, training=training)
        terms = {
            "real": self._adversarial.real(score_real),
            "fake": self._adversarial.fake(score_fake),
            "output_real": mean(score_real),
            "output_fake": mean(score_fake),
        }
        total = DISCRIMINATOR_WEIGHT * (terms["real"] + terms["fake"])
        return self._with_penalty(terms, total, domain, real, fake, training)

    def _discriminate_in_turn(self, domain: Domain, real: tf.Tensor, fake: tf.Tensor) -> Losses:
        """Two updates of one discriminator: on real pictures (with the penalty, if any), then on pooled fakes."""
        group, discriminator = f"D_{domain}", self._discriminator(domain)
        real, fake = self._augmented(real, f"real_{domain}"), self._augmented(fake, f"fake_{domain}")
        variables = discriminator.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(_values(variables))
            score = discriminator(real, training=True)
            terms = {"real": self._adversarial.real(score), "output_real": mean(score)}
            half = DISCRIMINATOR_WEIGHT * terms["real"]
            terms = self._with_penalty(terms, half, domain, real, fake)
        self._descend(group, tape, terms["total"], variables)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(_values(variables))
            score = discriminator(fake, training=True)
            terms |= {"fake": self._adversarial.fake(score), "output_fake": mean(score)}
            half = DISCRIMINATOR_WEIGHT * terms["fake"]
        self._descend(group, tape, half, variables)
        return {**terms, "total": terms["total"] + half}

    def _with_penalty(
        self,
        terms: Losses,
        total: tf.Tensor,
        domain: Domain,
        real: tf.Tensor,
        fake: tf.Tensor,
        training: bool = True,
    ) -> Losses:
        """Add `total`, with the weighted gradient penalties in it where there are any."""
        if self._has_penalty:
            discriminator = self._discriminator(domain)
            penalty = tf.zeros_like(total)
            if self._gradient_penalty_weight:
                mix = self._uniform((tf.shape(real)[0], 1, 1, 1), f"mix_{domain}", dtype=real.dtype)
                penalty += self._gradient_penalty_weight * gradient_penalty(discriminator, real, fake, mix, training)
            if self._r1_weight:
                penalty += self._r1_weight * r1_penalty(discriminator, real, training)
            # Halved with the loss that it stands beside, so that its weight means what the literature's does.
            penalty *= DISCRIMINATOR_WEIGHT
            terms = {**terms, "penalty": penalty}
            total += penalty
        return {**terms, "total": total}

    def _shown(self, domain: Domain, real: tf.Tensor, fake: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The real pictures and the translations that a discriminator learns from in this step.

        The real ones, and the new translations in exchange for those of the pool; where `discriminator_batch` asks for
        more, random ones out of both pools beside them.
        """
        pool, pool_real = (self.pool_A, self.pool_real_A) if domain == "A" else (self.pool_B, self.pool_real_B)
        fake = pool.exchange(fake, *self._pool_choices(fake, f"pool_{domain}"))
        if pool_real is None or self.discriminator_batch is None:
            return real, fake
        pool_real.exchange(real, *self._pool_choices(real, f"pool_real_{domain}"))
        draws = self._uniform((2, self.discriminator_batch - real.shape[0]), f"more_{domain}")
        return tf.concat([real, pool_real.sample(draws[0])], 0), tf.concat([fake, pool.sample(draws[1])], 0)

    def _pool(self, name: str) -> ImagePool:
        channels = self._discriminator("A" if name.endswith("A") else "B").input_shape[-1]
        return ImagePool(self.pool_size, (*self.image_size, channels), name=f"pool_{name}")

    def _pool_choices(self, images: tf.Tensor, purpose: str) -> tuple[tf.Tensor, tf.Tensor]:
        """For each picture of a batch: whether to swap it, and for which slot of the pool."""
        draws = self._uniform((2, images.shape[0]), purpose)
        return draws[0] < 0.5, tf.cast(draws[1] * float(self.pool_size), tf.int32)

    def _augmented(self, images: tf.Tensor, purpose: str) -> tf.Tensor:
        """What a discriminator sees of these pictures."""
        if not self._transforms:
            return images
        draws = self._uniform((tf.shape(images)[0], draws_for(self._transforms)), purpose)
        return diff_augment(images, draws, self._transforms)

    def _uniform(self, shape: Any, purpose: str, dtype: Any = tf.float32) -> tf.Tensor:
        """See `draws.uniform`."""
        return uniform(shape, purpose, self.seed, self.step.value, dtype)

    def _descend(
        self, group: str, tape: tf.GradientTape, objective: tf.Tensor, variables: list[keras.Variable]
    ) -> None:
        """One optimizer step on `objective` for exactly these variables."""
        gradients = tape.gradient(objective, _values(variables))
        self.optimizers[group].apply(gradients, variables)

    @property
    def _has_penalty(self) -> bool:
        return self._gradient_penalty_weight > 0 or self._r1_weight > 0

    def _groups(self) -> dict[str, tuple[keras.Model, ...]]:
        """The networks that one optimizer updates together."""
        if self.update_order == "joint":
            return {"G": (self.G_AtoB, self.G_BtoA), "D": (self.D_A, self.D_B)}
        return {"G_BtoA": (self.G_BtoA,), "D_A": (self.D_A,), "G_AtoB": (self.G_AtoB,), "D_B": (self.D_B,)}

    def _series(self) -> list[str]:
        """Names of all reported losses."""
        of_discriminator = ["total", "real", "fake", "output_real", "output_fake"]
        if self._has_penalty:
            of_discriminator.append("penalty")
        return [f"{G}/{term}" for G in ("G_AtoB", "G_BtoA") for term in ("total", *GENERATOR_TERMS)] + [
            f"{D}/{term}" for D in ("D_A", "D_B") for term in of_discriminator
        ]

    def _report(self, terms_AtoB: Losses, terms_BtoA: Losses, terms_A: Losses, terms_B: Losses) -> Losses:
        """All losses of a step by name.

        A generator's `total` is its own weighted sum, as in its composite model. In `joint` order the objective is the
        sum of both totals less both backward cycles, which are the other generator's forward cycles.
        """
        total_AtoB = weighted(terms_AtoB, self.weights_AtoB)
        total_BtoA = weighted(terms_BtoA, self.weights_BtoA)
        networks = {
            "G_AtoB": {"total": total_AtoB, **terms_AtoB},
            "G_BtoA": {"total": total_BtoA, **terms_BtoA},
            "D_A": terms_A,
            "D_B": terms_B,
        }
        return {f"{network}/{term}": value for network, terms in networks.items() for term, value in terms.items()}

    def state(self) -> dict[str, keras.Variable]:
        """Every variable that training depends on, by a stable name: what a checkpoint must hold."""
        owners: list[tuple[str, Any]] = [
            (name, getattr(self, name)) for name in ("G_AtoB", "G_BtoA", "D_A", "D_B", "pool_A", "pool_B")
        ]
        if self.pool_real_A is not None:
            owners += [("pool_real_A", self.pool_real_A), ("pool_real_B", self.pool_real_B)]
        if self.ema_AtoB is not None:
            owners += [("ema_AtoB", self.ema_AtoB), ("ema_BtoA", self.ema_BtoA)]
        if self.kept_AtoB is not None:
            owners += [("kept_AtoB", self.kept_AtoB), ("kept_BtoA", self.kept_BtoA)]
        owners += [(f"optimizer_{name}", optimizer) for name, optimizer in self.optimizers.items()]
        owners.append(("losses", self._means))
        variables = {f"{name}/{n:03d}": v for name, owner in owners for n, v in enumerate(owner.variables)}
        return {"step": self.step, "learning_rate_factor": self.learning_rate_factor, **variables}

    def get_config(self) -> dict[str, Any]:
        networks = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in NETWORKS}
        return {
            **networks,
            "image_size": self.image_size,
            "update_order": self.update_order,
            "pool_size": self.pool_size,
            "discriminator_batch": self.discriminator_batch,
            "ema_decay": self.ema_decay,
            "keep_best": self.keep_best,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> CycleGAN:
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in NETWORKS
        }
        return cls(**{**config, **networks})

    def get_compile_config(self) -> dict[str, Any]:
        return {name: keras.saving.serialize_keras_object(value) for name, value in self._compile_arguments.items()}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        arguments = {name: keras.saving.deserialize_keras_object(value) for name, value in config.items()}
        for weights in ("loss_weights", "loss_weights_BtoA"):
            arguments[weights] = LossWeights(**arguments[weights])
        self.compile(**arguments)


NETWORKS = ("G_AtoB", "G_BtoA", "D_A", "D_B")


class _Optimizers:
    """What Keras' callbacks find as `model.optimizer`: the optimizers of all groups, whose learning rates they set."""

    built = True

    def __init__(self, model: CycleGAN) -> None:
        self.optimizers = [_Rate(group, optimizer, model) for group, optimizer in model.optimizers.items()]
        self.iterations = model.step


class _Rate:
    """One group's learning rate."""

    def __init__(self, group: str, optimizer: keras.optimizers.Optimizer, model: CycleGAN) -> None:
        self.name, self._optimizer, self._model = group, optimizer, model

    @property
    def learning_rate(self) -> Any:
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        if self._model.schedule is not None:
            raise ValueError(
                "schedule: sets the learning rate at each step; compile without it to use a learning rate callback"
            )
        self._optimizer.learning_rate = rate


def _pair(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch of each domain, from what Keras makes of `fit(real_A, real_B)`, `fit((real_A, real_B))` or a data set.

    Raises:
        ValueError: there is no pair, or there are weights of samples, which nothing would use.
    """
    first, second, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("sample_weight, class_weight: CycleGAN weighs all pictures alike; leave them out")
    if second is None:
        if not isinstance(first, tuple | list) or len(first) != 2:
            raise ValueError("x: CycleGAN takes a batch of each domain, (real_A, real_B); see model.generators for one")
        first, second = first
    return first, second


def _values(variables: list[keras.Variable]) -> list[tf.Variable]:
    return [variable.value for variable in variables]


def _fresh(pattern: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
    """A new optimizer of the same kind and settings, with its slots for `variables` made."""
    optimizer = type(pattern).from_config(pattern.get_config())
    optimizer.build(variables)
    return optimizer
