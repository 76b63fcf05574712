"""Tasks for recurrent networks, as animals are trained on, with an unlimited number of trials.

Each task is a pure function of a key and a number of time steps T that returns one trial: inputs
[T, i], targets [T, o] and a mask [T], which is 1 at the time steps that count. Inputs and targets
are of the order of 1, and have no units.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.dataset import Examples
from nmnc_jax.types import Array, Inputs

Trial = tuple[Array, Array, Array]
TRAIN, TEST = 2**20, 2048


def flip_flop(key: Array, steps: int, *, bits: int = 3, rate: float = 0.1) -> Trial:
    """Remember each channel's last pulse, +1 or -1 (Sussillo and Barak 2013).

    Pulses come at each time step with probability `rate`, and at the first one. Inputs [T, bits],
    targets [T, bits].
    """
    sign_key, time_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, (steps, bits), jnp.float32)
    pulse = jax.random.bernoulli(time_key, rate, (steps, bits)).at[0].set(True)
    place = jnp.arange(steps, dtype=jnp.int32)[:, None]
    last = jax.lax.cummax(jnp.where(pulse, place, -1), axis=0)
    targets = jnp.take_along_axis(signs, last, axis=0)
    return jnp.where(pulse, signs, 0.0), targets, jnp.ones(steps)


def context(key: Array, steps: int, *, noise: float = 1.0) -> Trial:
    """Report the sign of the mean of the channel that the context selects (Mante et al. 2013).

    Inputs [T, 4]: two channels of evidence, each a constant of size .1 to .5 and Gaussian noise of
    standard deviation `noise` at each time step, until the last quarter; the context, one of two.
    Targets [T, 1]: -1 or 1, in the last quarter.
    """
    sign_key, size_key, noise_key, context_key = jax.random.split(key, 4)
    means = jax.random.rademacher(sign_key, (2,), jnp.float32)
    means = means * jax.random.uniform(size_key, (2,), minval=0.1, maxval=0.5)
    asked = jax.random.bernoulli(context_key).astype(jnp.int32)
    respond = _last(steps, 4)
    evidence = means[None] + noise * jax.random.normal(noise_key, (steps, 2))
    evidence = evidence * (1 - respond)[:, None]
    cue = jnp.broadcast_to(jax.nn.one_hot(asked, 2)[None], (steps, 2))
    targets = respond[:, None] * jnp.sign(means[asked])
    return jnp.concatenate([evidence, cue], axis=1), targets, respond


def match(key: Array, steps: int, *, stimuli: int = 4) -> Trial:
    """Report whether a second stimulus is the same as the first, after a delay.

    Inputs [T, stimuli]: one stimulus in the first fifth of the trial, and one in the fourth fifth,
    which is the same in half of the trials. Targets [T, 1]: 1 or -1, in the last fifth.
    """
    same_key, first_key, other_key = jax.random.split(key, 3)
    same = jax.random.bernoulli(same_key)
    first = jax.random.randint(first_key, (), 0, stimuli)
    other = (first + jax.random.randint(other_key, (), 1, stimuli)) % stimuli
    fifth = jnp.arange(steps) * 5 // steps
    shown = (fifth == 0)[:, None] * jax.nn.one_hot(first, stimuli)[None]
    second = jax.nn.one_hot(jnp.where(same, first, other), stimuli)
    shown = shown + (fifth == 3)[:, None] * second[None]
    respond = (fifth == 4).astype(jnp.float32)
    return shown, respond[:, None] * jnp.where(same, 1.0, -1.0), respond


def evidence(key: Array, steps: int, *, rate: float = 0.3) -> Trial:
    """Report on which side there were more clicks (Brunton et al. 2013).

    Inputs [T, 2]: clicks left and right, each 0 or 1, with rates that add up to `rate`, until the
    last quarter. At the first time step there is a click only if the others are tied. Targets
    [T, 1]: -1 for more clicks left, 1 for more clicks right, in the last quarter.
    """
    odds_key, click_key, first_key = jax.random.split(key, 3)
    right = jax.random.uniform(odds_key, minval=0.2, maxval=0.8)
    respond = _last(steps, 4)
    chance = rate * jnp.stack([1 - right, right])
    clicks = jax.random.bernoulli(click_key, chance[None], (steps, 2)).astype(jnp.float32)
    clicks = (clicks * (1 - respond)[:, None]).at[0].set(0)
    sides = clicks.sum(axis=0)
    tied = (sides[0] == sides[1]).astype(jnp.float32)
    clicks = clicks.at[0, jax.random.bernoulli(first_key).astype(jnp.int32)].set(tied)
    sides = clicks.sum(axis=0)
    return clicks, respond[:, None] * jnp.sign(sides[1] - sides[0]), respond


def reach(key: Array, steps: int, *, rotation: float = 0.0) -> Trial:
    """Reach from the centre to a target on the unit circle, after a go signal.

    Inputs [T, 3]: the position of the target (x, y), in all time steps, and 1 until the go signal,
    which comes in the second fifth of the trial. Targets [T, 2]: the position of the hand, which
    moves with a bell-shaped speed over two fifths of the trial to the target, rotated by `rotation`
    degrees, and stays there.
    """
    angle_key, go_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
    place = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    go = jax.random.randint(go_key, (), steps // 5, 2 * steps // 5)
    passed = jnp.clip((jnp.arange(steps) - go) / (2 * steps / 5), 0, 1)
    # The minimum-jerk movement (Flash and Hogan 1985).
    share = 10 * passed**3 - 15 * passed**4 + 6 * passed**5
    turn = rotation * jnp.pi / 180
    end = jnp.stack([jnp.cos(angle + turn), jnp.sin(angle + turn)])
    hold = (jnp.arange(steps) < go).astype(jnp.float32)
    inputs = jnp.concatenate([jnp.broadcast_to(place[None], (steps, 2)), hold[:, None]], axis=1)
    return inputs, share[:, None] * end[None], jnp.ones(steps)


class Task(NamedTuple):
    """A task with its chance level and its ceiling.

    Attributes:
        trial: function of a key and a number of time steps that returns one trial.
        chance: share of correct answers of a network that ignores its inputs.
        ceiling: share of correct answers of the best network; for `context`, of one that sums the
            evidence of 50 steps.
    """

    trial: Callable[..., Trial]
    chance: float
    ceiling: float


TASKS = {
    "flip_flop": Task(flip_flop, 0.5, 1.0),
    "context": Task(context, 0.5, 0.93),
    "match": Task(match, 0.5, 1.0),
    "evidence": Task(evidence, 0.5, 1.0),
    "reach": Task(reach, 0.0, 1.0),
}


@dataclass(frozen=True)
class Trials:
    """A `Dataset` of a task's trials, each of which is determined by its number.

    The last channel of the targets is the mask, [B, T, o + 1].

    Attributes:
        name: name of the task.
        steps: number of time steps, T.
        rotation: reach only: rotation of the targets, in degrees.
        seeded: whether each trial has a seed for the noise of the network's units, a whole number
            below 2^24 in the last channel of the inputs, [B, T, i + 1].
        validation: whether trials that are not in the test set are tested.
    """

    name: str
    steps: int
    rotation: float = 0.0
    seeded: bool = False
    validation: bool = False

    @property
    def outputs(self) -> int:
        """Number of outputs of a network."""
        return self.train_examples(np.arange(1))[1].shape[-1] - 1

    @property
    def chance(self) -> float:
        """Share of correct answers without information from the inputs."""
        return TASKS[self.name].chance

    @property
    def train_size(self) -> int:
        """Number of trials that `train_examples` draws from; training draws new ones."""
        return TRAIN

    @property
    def test_size(self) -> int:
        """Number of test trials."""
        return TEST

    def train_examples(self, indices: np.ndarray) -> Examples:
        """Returns training trials."""
        return self._trials(0, indices)

    def test_examples(self, indices: np.ndarray) -> Examples:
        """Returns test trials."""
        return self._trials(2 if self.validation else 1, indices)

    def train_batches(
        self, batch: int, seed: int, *, steps: range, rows: np.ndarray
    ) -> Iterator[Examples]:
        """Yields the given rows of the batch of each step; other seeds have other trials."""
        for step in steps:
            yield self._trials(3 + seed, step * batch + rows)

    def _trials(self, part: int, indices: np.ndarray) -> Examples:
        inputs, targets = _draw(
            self.name, self.steps, self.rotation, self.seeded, part, jnp.asarray(indices, jnp.int32)
        )
        return np.asarray(inputs), np.asarray(targets)

    def normalise(self, inputs: Array) -> Inputs:
        """Returns inputs [B, T, i], or a pair of inputs and seeds [B] if trials are seeded."""
        if not self.seeded:
            return inputs
        return inputs[..., :-1], inputs[:, 0, -1].astype(jnp.int32)

    def loss(self, outputs: Array, targets: Array) -> Array:
        """Returns the squared error, [B, T], weighted to average over the time steps that count."""
        wanted, mask = targets[..., :-1], targets[..., -1]
        weight = mask * (mask.shape[1] / jnp.maximum(mask.sum(axis=1), 1))[:, None]
        return weight * ((outputs - wanted) ** 2).mean(axis=-1)

    def correct(self, outputs: Array, targets: Array) -> Array:
        """Returns the share of correct signs of each trial, or whether reach ends near, [B]."""
        wanted, mask = targets[..., :-1], targets[..., -1]
        if self.name == "reach":
            error = jnp.linalg.norm(outputs[:, -1] - wanted[:, -1], axis=-1)
            return (error < 0.2).astype(outputs.dtype)
        right = (outputs * wanted > 0).mean(axis=-1)
        return (right * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw(
    name: str, steps: int, rotation: float, seeded: bool, part: int, indices: Array
) -> tuple[Array, Array]:
    """Returns the inputs of numbered trials, with their seeds, and their targets with the mask."""
    task = TASKS[name].trial
    task = partial(task, rotation=rotation) if name == "reach" else task
    base = jax.random.fold_in(jax.random.key(0), part)
    keys = jax.vmap(lambda index: jax.random.fold_in(base, index))(indices)
    inputs, targets, mask = jax.vmap(lambda key: task(key, steps))(keys)
    if seeded:
        # A float32 represents all whole numbers up to 2^24.
        own = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 1), (), 0, 2**24))
        seeds = jnp.broadcast_to(own(keys)[:, None, None], (*inputs.shape[:2], 1))
        inputs = jnp.concatenate([inputs, seeds.astype(inputs.dtype)], axis=-1)
    return inputs, jnp.concatenate([targets, mask[..., None]], axis=-1)


def _last(steps: int, part: int) -> Array:
    """Returns 1 in the last of `part` equal parts of a trial and 0 before, [T]."""
    return (jnp.arange(steps) >= steps - steps // part).astype(jnp.float32)
