"""Times the programs of a run, and a step of each method relative to backpropagation's."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.training.measuring import CHUNK
from experiments.training.state import TrainState
from experiments.training.step_parts import StepPart
from experiments.training.trainer import Trainer, make_trainer

ROUNDS = 3


def step_costs(
    trainers: dict[str, Trainer], config: Config, data: Dataset
) -> dict[str, dict[str, float]]:
    """Times blocks of steps, one method after another, in rounds.

    A block spans whole periods of the updates of feedback and bases, so that it contains the right
    share of their cost.

    Args:
        trainers: method to its functions; "backprop" is added if it is missing.
        config: the configuration that the methods share.
        data: the data set.

    Returns:
        A dict from method to its median milliseconds per step, and the median, smallest and largest
        ratio to backpropagation within a round.
    """
    everyone = dict(trainers)
    if "backprop" not in everyone:
        everyone["backprop"] = make_trainer(config.replace(estimator="backprop"), data)
    block = int(np.lcm(config.method.update_every, config.method.basis_update_every))
    block *= max(1, 20 // block)
    devices = everyone["backprop"].devices
    batch = devices.gather(data.train_examples, np.arange(config.run.batch))
    key = jax.random.key(0)
    states = {name: trainer.init(config.run.seed) for name, trainer in everyone.items()}
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for turn in range(ROUNDS + 1):
        for name, trainer in everyone.items():
            state = states[name]
            start = time.perf_counter()
            dues = [trainer.due(step) for step in range(block)]
            for step, due in enumerate(dues if turn else set(dues)):
                now = jax.random.fold_in(key, turn * block + step)
                state, _ = trainer.step(state, now, batch, due=due)
            states[name] = jax.block_until_ready(state)
            if turn:  # The first turn compiles.
                times[name].append((time.perf_counter() - start) / block)
    costs = {}
    for name in trainers:
        ratios = np.array(times[name]) / np.array(times["backprop"])
        costs[name] = {
            "milliseconds": 1000 * float(np.median(times[name])),
            "over_backprop": float(np.median(ratios)),
            "least": float(ratios.min()),
            "greatest": float(ratios.max()),
        }
    return costs


def step_times(
    trainer: Trainer,
    config: Config,
    data: Dataset,
    parts: Iterable[StepPart],
    rounds: int = ROUNDS,
) -> tuple[dict[StepPart, float], TrainState]:
    """Times each program of a run's steps separately, on the devices of the trainer.

    Returns:
        Median seconds of each program, and the state after all steps.
    """
    batch = trainer.devices.gather(data.train_examples, np.arange(config.run.batch))
    key = jax.random.key(config.run.seed)
    state = trainer.init(config.run.seed)

    def take(part: StepPart) -> Any:
        nonlocal state
        state, loss = part.function(state, key, batch, due=part.due)
        return state, loss

    return {part: _seconds(lambda part=part: take(part), rounds) for part in parts}, state


def program_times(
    trainer: Trainer, config: Config, data: Dataset, parts: Iterable[StepPart]
) -> tuple[dict[StepPart, float], float, float]:
    """Times each program of a run separately, on the devices of the trainer.

    Args:
        trainer: the functions of the run.
        config: the configuration of the run.
        data: the data set.
        parts: the programs of the steps.

    Returns:
        Median seconds of each program of the steps, of the start, and of the test of a batch.
    """
    devices, key = trainer.devices, jax.random.key(config.run.seed)
    steps, state = step_times(trainer, config, data, parts)
    count = min(config.method.basis_batch, data.train_size)
    first = devices.any_size(data.train_examples(np.arange(count)))
    tested = np.arange(devices.size(min(CHUNK, data.test_size)))
    tested = devices.gather(data.test_examples, tested)
    return (
        steps,
        _seconds(lambda: trainer.start(key, first)),
        _seconds(lambda: trainer.tested(state.params, tested)),
    )


def _seconds(function: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Returns the median time of a call, after a call that may compile."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
