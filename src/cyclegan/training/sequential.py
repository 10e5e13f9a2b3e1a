"""The training step in the order of the tutorial and of the original Torch code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from cyclegan.domains import Domain
from cyclegan.training.losses import DISCRIMINATOR_WEIGHT, Losses, Passes, mean, named_losses, penalty, weighted

if TYPE_CHECKING:
    from cyclegan.training.cyclegan import CycleGAN


def sequential_step(model: CycleGAN, real_A: tf.Tensor, real_B: tf.Tensor) -> Losses:
    """Update G_BtoA, D_A (real, then fake), G_AtoB, D_B (real, then fake), each with its own optimizer.

    Both pools receive fakes of the weights at the start of the step; G_AtoB's update uses the updated G_BtoA. The
    result equals the tutorial's `train_on_batch` calls; passes that they share are computed once.
    """
    AtoB, BtoA = model.objective.weights["AtoB"], model.objective.weights["BtoA"]
    with model.tape("G_AtoB") as tape_AtoB, model.tape("G_BtoA") as tape_BtoA:
        fake_B, idt_B = model.translate("AtoB", real_A, real_B)
        fake_A, idt_A = model.translate("BtoA", real_B, real_A)
    selected_A, selected_B = model.feed_A.select(real_A, fake_A), model.feed_B.select(real_B, fake_B)

    # Update G_BtoA, then D_A.
    with tape_BtoA:
        rec_B = model.run("AtoB", fake_A) if BtoA.need("rec_source") else None
        rec_A = model.run("BtoA", tf.stop_gradient(fake_B)) if BtoA.need("rec_target") else None
        terms_BtoA = model.generator_terms("BtoA", Passes(real_B, real_A, fake_A, idt_A, rec_B, rec_A))
        objective = weighted(terms_BtoA, BtoA)
    model.descend("G_BtoA", tape_BtoA, objective)
    terms_A = _discriminate_in_turn(model, "A", *selected_A)

    # Update G_AtoB, then D_B.
    with tape_AtoB:
        rec_A = model.run("BtoA", fake_B) if AtoB.need("rec_source") else None
        rec_B = model.run("AtoB", model.run("BtoA", real_B)) if AtoB.need("rec_target") else None
        terms_AtoB = model.generator_terms("AtoB", Passes(real_A, real_B, fake_B, idt_B, rec_A, rec_B))
        objective = weighted(terms_AtoB, AtoB)
    model.descend("G_AtoB", tape_AtoB, objective)
    terms_B = _discriminate_in_turn(model, "B", *selected_B)
    return named_losses(model.objective, terms_AtoB, terms_BtoA, terms_A, terms_B)


def _discriminate_in_turn(model: CycleGAN, domain: Domain, real: tf.Tensor, fake: tf.Tensor) -> Losses:
    """Update one discriminator twice: on real images (with the penalty, if any), then on fakes of the pool."""
    group, discriminator, feed = f"D_{domain}", model.discriminator(domain), model.feed(domain)
    score_loss = model.objective.score_loss
    real, fake = feed.augment(real, "real"), feed.augment(fake, "fake")
    with model.tape(group) as tape:
        score = discriminator(real, training=True)
        terms = {"real": score_loss.real(score), "output_real": mean(score)}
        objective = DISCRIMINATOR_WEIGHT * terms["real"]
        if model.objective.has_penalty:
            terms["penalty"] = penalty(discriminator, real, fake, model.mixing_shares(domain, real), model.objective)
            objective += terms["penalty"]
        terms["total"] = objective
    model.descend(group, tape, objective)
    with model.tape(group) as tape:
        score = discriminator(fake, training=True)
        terms |= {"fake": score_loss.fake(score), "output_fake": mean(score)}
        objective = DISCRIMINATOR_WEIGHT * terms["fake"]
    model.descend(group, tape, objective)
    return {**terms, "total": terms["total"] + objective}
