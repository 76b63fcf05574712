"""Networks trained on real data, in which estimators are measured."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import InMemory, batches
from nmnc_jax import (
    Estimator,
    Probe,
    backprop,
    isotropic,
    learned_feedback,
    noise_correlation,
    pca,
    random_subspace,
)
from nmnc_jax.types import ApplyFn, Batch, Params, Rank

loss_fn = optax.softmax_cross_entropy_with_integer_labels


@dataclasses.dataclass
class Trained:
    """A network at several stages of its training by backpropagation.

    Attributes:
        apply_fn: the model.
        stages: step to parameters at that step.
        batch: one training batch.
        fit: a larger batch for the first basis.
    """

    apply_fn: ApplyFn
    stages: dict[int, Params]
    batch: Batch
    fit: Batch


def train(
    model: Any, data: InMemory, stages: Sequence[int], *, batch: int = 64, seed: int = 0
) -> Trained:
    """Trains a Flax Linen model by backpropagation with Adam and keeps its parameters at stages."""
    inputs, targets = jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets)
    params = jax.jit(model.init)(jax.random.key(seed), inputs[:batch])
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-3, max(stages) + 1))
    moments = optimiser.init(params)
    gradient = backprop(model.apply, loss_fn)

    @jax.jit
    def step(params, moments, batch):
        gradients, _, _ = gradient.estimate(jax.random.key(0), params, batch, ())
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    kept = {}
    order = batches(len(inputs), batch, seed)
    for number in range(max(stages) + 1):
        if number in stages:
            kept[number] = params
        chosen = next(order)
        params, moments = step(params, moments, (inputs[chosen], targets[chosen]))
    first, larger = next(order), np.random.default_rng(seed).permutation(len(inputs))[:1024]
    return Trained(
        model.apply, kept, (inputs[first], targets[first]), (inputs[larger], targets[larger])
    )


def correlation(
    readout: Any, *, subspace: str, rank: Rank = 16, decay: float | None = None, **probe: Any
) -> Callable[[ApplyFn], Estimator]:
    """Returns a function of a model that returns an estimator of the family.

    Args:
        readout: "output" or "loss".
        subspace: "all", "manifold" or "random".
        rank: rank of the manifold or the random subspace.
        decay: decay of the feedback; None means no control variate with "loss", and 0 with
            "output".
        **probe: fields of `Probe`.
    """
    chosen = {
        "all": isotropic,
        "manifold": lambda: pca(rank, update_every=10**6),
        "random": lambda: random_subspace(rank),
    }[subspace]()
    if readout == "output":
        decay = decay or 0.0
    return lambda apply_fn: noise_correlation(
        apply_fn,
        loss_fn,
        subspace=chosen,
        readout=readout,
        probe=Probe(difference="jvp", **probe),
        feedback=None if decay is None else learned_feedback(decay),
    )
