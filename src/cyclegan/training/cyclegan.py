"""CycleGAN as a Keras model, with its training step.

Read `train_step` first, then `_joint_step` (the default) and `training.sequential` (the tutorial's order). The losses
are in `training.losses`, the discriminators' inputs in `training.discriminator_feed`, and Keras' interface in
`training.base_model`. Gradients are always taken for an explicit list of variables; no `trainable` flag is toggled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import keras
import tensorflow as tf

from cyclegan.domains import DIRECTIONS, Direction, Domain
from cyclegan.models.normalization import batches_are_independent
from cyclegan.training import replicas
from cyclegan.training.adam import FusedAdam
from cyclegan.training.base_model import (
    BaseModel,
    GroupOptimizers,
    copy_optimizer,
    refuse_batch_sizes,
    refuse_unequal,
    unpack_pair,
)
from cyclegan.training.discriminator_feed import DiscriminatorFeed
from cyclegan.training.draws import Draws
from cyclegan.training.ema import copy_of, update_average
from cyclegan.training.gradient_checkpointing import recomputing
from cyclegan.training.losses import (
    Losses,
    Objective,
    Passes,
    UpdateOrder,
    discriminator_terms,
    generator_terms,
    joint_objective,
    loss_names,
    named_losses,
)
from cyclegan.training.running_means import MeanOfEach
from cyclegan.training.sequential import sequential_step
from cyclegan.training.tensor_cores import pad_channels


@keras.saving.register_keras_serializable(package="cyclegan")
class CycleGAN(BaseModel):
    """Two generators and two discriminators trained on unpaired images (Zhu et al. 2017).

    `fit` takes batches `(real_A, real_B)`, each `[N, H, W, C]` float in [-1, 1] with a fixed N. `evaluate` takes such
    batches of any N and returns the losses. A call of the model and `predict` return `(G_AtoB(real_A),
    G_BtoA(real_B))`. The complete training state is in variables of the model: the networks, their averages, the
    optimizers, the image pools and the step counter. All random choices follow from the seed and the step counter.

    Args:
        G_AtoB, G_BtoA: generators, `[N, H, W, C]` → the other domain's `[N, H, W, C]`, in [-1, 1].
        D_A, D_B: discriminators of real and translated images of their domain, `[N, H, W, C]` → `[N, h, w, 1]`.
        image_size: `(H, W)` of the training images, which fixes the size of the pools.
        update_order: `joint` updates both generators on the sum of all terms, in which each cycle counts once, then
            both discriminators (the reference implementation). `sequential` updates G_BtoA, D_A on a real and then on a
            fake image, G_AtoB, and D_B likewise (the tutorial and the original Torch code).
        pool_size: images held in each image pool; 0 for none.
        discriminator_batch: number of real images, and of translations, that a discriminator learns from in a step.
            Those beyond the batch are drawn from its pool of translations and from a pool of real images. It must be
            above the batch size and needs `pool_size` above 0. None: only the images of the batch.
        ema_decay: decay of the exponential moving average of the generators' weights, which `generators` then returns;
            0 for none.
        keep_best: hold a copy of `generators` as of the last call of `keep`.
        seed: seed of all random choices of a step, below 2^38.

    Raises:
        ValueError: `discriminator_batch` without image pools or, in the first step, not above the batch size.
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
            raise ValueError(
                f"discriminator_batch = {discriminator_batch}: draws from the image pools, but pool_size = 0; "
                "set pool_size above 0, or discriminator_batch to None"
            )
        super().__init__(**kwargs)
        self.G_AtoB, self.G_BtoA, self.D_A, self.D_B = G_AtoB, G_BtoA, D_A, D_B
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.update_order = update_order
        self.pool_size = pool_size
        self.discriminator_batch = discriminator_batch
        self.ema_decay = ema_decay
        self.keep_best = keep_best
        self.seed = seed
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.learning_rate_factor = self.add_weight(
            name="learning_rate_factor", shape=(), dtype="float32", initializer="ones", trainable=False
        )
        draws = Draws(seed, self.step)
        pools: dict[str, Any] = {"pool_size": pool_size, "batch_size": discriminator_batch}
        self.feed_A = DiscriminatorFeed("A", (*self.image_size, D_A.input_shape[-1]), draws, **pools)
        self.feed_B = DiscriminatorFeed("B", (*self.image_size, D_B.input_shape[-1]), draws, **pools)
        self.ema_AtoB = copy_of(G_AtoB, "average") if ema_decay > 0 else None
        self.ema_BtoA = copy_of(G_BtoA, "average") if ema_decay > 0 else None
        self.kept_AtoB = copy_of(G_AtoB, "kept") if keep_best else None
        self.kept_BtoA = copy_of(G_BtoA, "kept") if keep_best else None
        self.built = True

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | None = None,
        objective: Objective | None = None,
        *,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
        gradient_checkpointing: bool = False,
        jit_compile: bool | Literal["auto"] = "auto",
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ) -> None:
        """Choose the objective, the optimizers and the form of execution.

        Args:
            optimizer: a pattern, or Keras' name of one. Each group of networks that is updated together gets a copy
                (two groups in `joint` order, four in `sequential`); default: the paper's `FusedAdam(2e-4, beta_1=0.5)`.
            objective: the losses and their weights; default: the paper's.
            schedule: learning rate as a function of the *training* step; default: the optimizer's own rate. The result
                is multiplied by `learning_rate_factor`, which starts at 1; see `training.plateau`.
            gradient_checkpointing: recompute the activations in the generators' residual blocks for the gradient
                instead of storing them; see `training.gradient_checkpointing`.
            jit_compile: `auto` compiles with XLA on one GPU only; on a CPU it was slower. A GPU also gets padded
                convolutions, see `training.tensor_cores`.
            steps_per_execution, run_eagerly: as in `keras.Model.compile`.

        Raises:
            ValueError: `gradient_checkpointing`, `Objective.check` or `refuse_unequal` refuses arguments or networks.
        """
        objective = objective or Objective()
        objective.check(self.update_order, same_channels=self.D_A.input_shape[-1] == self.D_B.input_shape[-1])
        on_gpu = bool(tf.config.get_visible_devices("GPU"))
        if on_gpu:
            for network in (self.G_AtoB, self.G_BtoA, self.D_A, self.D_B):
                pad_channels(network)
        # Without None, Keras would report its default optimizer as if it were in use.
        super().compile(
            optimizer=None,
            jit_compile=on_gpu and replicas.count() == 1 if jit_compile == "auto" else jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        pattern = keras.optimizers.get(optimizer) if optimizer is not None else FusedAdam(2e-4, beta_1=0.5)
        refuse_unequal(pattern, (self.G_AtoB, self.G_BtoA, self.D_A, self.D_B))
        self.objective = objective
        self.schedule = schedule
        self.feed_A.transforms = self.feed_B.transforms = objective.diff_augment
        self._recomputing = {}
        if gradient_checkpointing:
            self._recomputing = {"AtoB": recomputing(self.G_AtoB), "BtoA": recomputing(self.G_BtoA)}
        self.optimizers = {group: copy_optimizer(pattern, self._variables(group)) for group in self._groups()}
        self.optimizer = GroupOptimizers(self)
        self._means = MeanOfEach(loss_names(objective))
        self._compile_arguments = {
            "optimizer": pattern,
            "objective": objective,
            "schedule": schedule,
            "gradient_checkpointing": gradient_checkpointing,
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> Losses:
        """Update all four networks once on real images of both domains, `[N, H, W, C]` in [-1, 1].

        Returns the running mean of each loss since the last reset of the metrics. A loss is measured before its update.
        """
        real_A, real_B = unpack_pair(data)
        refuse_batch_sizes(real_A.shape[0], real_B.shape[0], self.discriminator_batch)
        if self.schedule is not None:
            rate = self.schedule(self.step.value) * self.learning_rate_factor.value
            for optimizer in self.optimizers.values():
                optimizer.learning_rate = tf.cast(rate, optimizer.learning_rate.dtype)
        if self.update_order == "joint":
            losses = self._joint_step(real_A, real_B)
        else:
            losses = sequential_step(self, real_A, real_B)
        self._means.update_state(replicas.averaged(losses))
        if self.ema_AtoB is not None and self.ema_BtoA is not None:
            update_average(self.ema_AtoB, self.G_AtoB, self.ema_decay, self.step.value)
            update_average(self.ema_BtoA, self.G_BtoA, self.ema_decay, self.step.value)
        self.step.assign_add(1)
        return self._means.result()

    def _joint_step(self, real_A: tf.Tensor, real_B: tf.Tensor) -> Losses:
        """Update both generators on the sum of all terms, then both discriminators.

        The order is that of the reference's `optimize_parameters`.
        """
        with self.tape("G") as tape:
            fake_B, idt_B = self.translate("AtoB", real_A, real_B)
            fake_A, idt_A = self.translate("BtoA", real_B, real_A)
            rec_A = self.run("BtoA", fake_B) if self._needs_rec("A") else None
            rec_B = self.run("AtoB", fake_A) if self._needs_rec("B") else None
            terms_AtoB = self.generator_terms("AtoB", Passes(real_A, real_B, fake_B, idt_B, rec_A, rec_B))
            terms_BtoA = self.generator_terms("BtoA", Passes(real_B, real_A, fake_A, idt_A, rec_B, rec_A))
            objective = joint_objective({"AtoB": terms_AtoB, "BtoA": terms_BtoA}, self.objective)
        self.descend("G", tape, objective)

        selected_A, selected_B = self.feed_A.select(real_A, fake_A), self.feed_B.select(real_B, fake_B)
        with self.tape("D") as tape:
            terms_A = self.discriminator_terms("A", *selected_A)
            terms_B = self.discriminator_terms("B", *selected_B)
            objective = terms_A["total"] + terms_B["total"]
        self.descend("D", tape, objective)
        return named_losses(self.objective, terms_AtoB, terms_BtoA, terms_A, terms_B)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> Losses:
        """The losses of `train_step` for `generators`, without updates and without image pools."""
        real_A, real_B = unpack_pair(data)
        G_AtoB, G_BtoA = self.generators["AtoB"], self.generators["BtoA"]
        weights = self.objective.weights
        fake_B, fake_A = self.call((real_A, real_B))
        idt_B = G_AtoB(real_B, training=False) if weights["AtoB"].need("idt") else None
        idt_A = G_BtoA(real_A, training=False) if weights["BtoA"].need("idt") else None
        rec_A = G_BtoA(fake_B, training=False) if self._needs_rec("A") else None
        rec_B = G_AtoB(fake_A, training=False) if self._needs_rec("B") else None
        passes_AtoB = Passes(real_A, real_B, fake_B, idt_B, rec_A, rec_B)
        passes_BtoA = Passes(real_B, real_A, fake_A, idt_A, rec_B, rec_A)
        losses = named_losses(
            self.objective,
            self.generator_terms("AtoB", passes_AtoB, training=False),
            self.generator_terms("BtoA", passes_BtoA, training=False),
            self.discriminator_terms("A", real_A, fake_A, training=False),
            self.discriminator_terms("B", real_B, fake_B, training=False),
        )
        self._means.update_state(losses)
        return self._means.result()

    def translate(
        self, direction: Direction, source: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The translation of `source` and, if a term needs it, the same generator's output for `target`.

        Both share one batch, unless batch normalization would mix their statistics.
        """
        if not self.objective.weights[direction].need("idt"):
            return self.run(direction, source), None
        if batches_are_independent(self._generator(direction)):
            fake, idt = tf.split(self.run(direction, tf.concat([source, target], axis=0)), 2)
            return fake, idt
        return self.run(direction, source), self.run(direction, target)

    def run(self, direction: Direction, images: tf.Tensor) -> tf.Tensor:
        """The output of a generator in training mode."""
        if direction in self._recomputing:
            return self._recomputing[direction](images)
        return self._generator(direction)(images, training=True)

    def generator_terms(self, direction: Direction, passes: Passes, training: bool = True) -> Losses:
        """The unweighted terms of one generator's loss, with the discriminator's scores of its translations."""
        weights, (_, domain) = self.objective.weights[direction], DIRECTIONS[direction]
        if weights.need("score"):
            seen = self.feed(domain).augment(passes.fake, "fake", for_generator=True)
            score = self.discriminator(domain)(seen, training=training)
            passes = replace(passes, score=score, score_loss=self.objective.score_loss)
        return generator_terms(passes, weights)

    def discriminator_terms(self, domain: Domain, real: tf.Tensor, fake: tf.Tensor, training: bool = True) -> Losses:
        """One discriminator's loss on real images and fakes together."""
        real, fake = self.feed(domain).augment(real, "real"), self.feed(domain).augment(fake, "fake")
        mix = self.mixing_shares(domain, real)
        return discriminator_terms(self.discriminator(domain), real, fake, mix, self.objective, training)

    def mixing_shares(self, domain: Domain, real: tf.Tensor) -> tf.Tensor | None:
        """The argument `mix` of `losses.gradient_penalty`; None if this penalty has no weight."""
        return self.feed(domain).mixing_shares(real) if self.objective.gradient_penalty else None

    def tape(self, group: str) -> tf.GradientTape:
        """A tape that watches the networks of this group; every `with` on it continues the recording."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._variables(group)])
        return tape

    def descend(self, group: str, tape: tf.GradientTape, objective: tf.Tensor) -> None:
        """Apply one optimizer step on `objective` to exactly the networks of this group."""
        variables = self._variables(group)
        gradients = replicas.averaged(tape.gradient(objective, [variable.value for variable in variables]))
        self.optimizers[group].apply(gradients, variables)

    def discriminator(self, domain: Domain) -> keras.Model:
        """The discriminator of a domain."""
        return self.D_A if domain == "A" else self.D_B

    def feed(self, domain: Domain) -> DiscriminatorFeed:
        """The feed of a domain's discriminator."""
        return self.feed_A if domain == "A" else self.feed_B

    def _generator(self, direction: Direction) -> keras.Model:
        return self.G_AtoB if direction == "AtoB" else self.G_BtoA

    def _needs_rec(self, domain: Domain) -> bool:
        """Whether a term needs the images of a domain translated to the other domain and back."""
        return any(
            self.objective.weights[direction].need("rec_source" if domain == source else "rec_target")
            for direction, (source, _) in DIRECTIONS.items()
        )

    def _groups(self) -> dict[str, tuple[keras.Model, ...]]:
        """The networks that one optimizer updates together."""
        if self.update_order == "joint":
            return {"G": (self.G_AtoB, self.G_BtoA), "D": (self.D_A, self.D_B)}
        return {"G_BtoA": (self.G_BtoA,), "D_A": (self.D_A,), "G_AtoB": (self.G_AtoB,), "D_B": (self.D_B,)}

    def _variables(self, group: str) -> list[keras.Variable]:
        return [variable for network in self._groups()[group] for variable in network.trainable_variables]
