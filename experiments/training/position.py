"""The position of a run in its training, and the network that a run has trained."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.configuration import Config, read_config
from experiments.data import Dataset, load
from experiments.errors import UserError
from experiments.files import expanded
from experiments.methods import checked
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer, make_trainer


class Position(NamedTuple):
    """The position of a run, besides its step, from which it can be continued exactly.

    Attributes:
        state: the network, the optimiser and the estimator.
        key: data of the key from which the key of each step is made.
        losses: losses of the steps since the last measurement, at the beginning of an array.
        seconds: time spent so far.
    """

    state: TrainState
    key: Any
    losses: Any
    seconds: Any


def last_position(
    trainer: Trainer, config: Config, checkpoints: Checkpoints
) -> tuple[int, Position] | None:
    """Reads step and position from the last undamaged checkpoint; None if there is none."""
    template = position_of(config, trainer.template, jax.random.key(0), [], 0.0)
    return checkpoints.restore(template)


def position_of(
    config: Config, state: TrainState, key: jax.Array, losses: list[Any], seconds: float
) -> Position:
    """Returns a position in the form in which it is saved."""
    kept = np.zeros(config.run.log_every, np.float32)
    kept[: len(losses)] = losses
    return Position(state, np.asarray(jax.random.key_data(key)), kept, np.array(seconds))


def begin(trainer: Trainer, config: Config) -> TrainState:
    """Returns the state before the first step, with a new network or that of the run `start`.

    Raises:
        UserError: if the network of `start` has other parameters.
    """
    if not config.run.start:
        return trainer.init(config.run.seed)
    _, _, params = trained_network(expanded(config.run.start))
    wanted, got = (
        {
            jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (trainer.template.params, params)
    )
    if got != wanted:
        raise UserError(f"start is {config.run.start!r}, with parameters {got}; it takes {wanted}")
    return trainer.init(config.run.seed, params)


def trained_network(directory: Path) -> tuple[Config, Dataset, Any]:
    """Reads the network that ``python -m experiments.train --out DIR`` has trained.

    Returns:
        The configuration of the run, its data set and the parameters of its last checkpoint.

    Raises:
        UserError: if the directory contains no run or no checkpoint.
    """
    found = read_config(directory)
    if found is None:
        raise UserError(f"{directory} holds no run; make one with --out")
    config = checked(found[0])
    data = load(config)
    checkpoints = Checkpoints(directory / "checkpoints", print)
    try:
        found = last_position(make_trainer(config, data), config, checkpoints)
    finally:
        checkpoints.close()
    if found is None:
        raise UserError(f"{directory} holds no checkpoint")
    return config, data, found[1].state.network
