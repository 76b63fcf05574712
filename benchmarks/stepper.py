"""Training steps of one method, as the benchmarks of time and memory take them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nmnc_jax import Estimator
from nmnc_jax.models import ConvNet
from nmnc_jax.types import Due

BATCH = 128


def strided_network() -> ConvNet:
    """Returns the strided network of `photos`, with 32/32/64 channels and a dense layer of 128."""
    return ConvNet((32, 32, 64), (2, 2, 1), 128, 10)


def problem(model: ConvNet, side: int = 32, seed: int = 0) -> tuple[Any, Any]:
    """Returns parameters and one batch; times do not depend on the content of images."""
    images, labels = jax.random.split(jax.random.key(seed))
    inputs = jax.random.normal(images, (BATCH, side, side, 3))
    targets = jax.random.randint(labels, (BATCH,), 0, 10)
    return jax.jit(model.init)(jax.random.key(1), inputs), (inputs, targets)


class Stepper:
    """One method's training step, with its state; calling it takes the next step.

    As in training, the scheduled work is decided outside the compiled program; a call may set it.
    """

    def __init__(self, estimator: Estimator, params: Any, batch: Any):
        optimiser = optax.adam(1e-4)

        def step(state, number, batch, due):
            params, moments, memory = state
            key = jax.random.fold_in(jax.random.key(0), number)
            gradients, memory, _ = estimator.estimate(key, params, batch, memory, due=due)
            updates, moments = optimiser.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments, memory

        self.step = jax.jit(step, donate_argnums=0, static_argnames="due")
        self.due = estimator.due
        self.batch = batch
        memory = estimator.init(params, batch)
        # The state is donated and the parameters are shared, so they are copied.
        self.state = jax.tree.map(jnp.copy, (params, optimiser.init(params), memory))
        self.number = 0

    def __call__(self, due: Due | None = None) -> Any:
        """Takes one step."""
        due = self.due(self.number) if due is None else due
        self.state = self.step(self.state, self.number, self.batch, due=due)
        self.number += 1
        return self.state

    def compile(self, due: Due | None = None) -> Any:
        """Compiles the step without running it; by default the first step, with all its work."""
        due = self.due(0) if due is None else due
        return self.step.lower(self.state, 0, self.batch, due=due).compile()
