"""A cell of the leaderboard: the search and the final runs of a method on a task."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import qmc

from experiments.analysis.cost import step_times
from experiments.configuration import Config
from experiments.data import Dataset, load
from experiments.errors import Diverged, UserError
from experiments.files import read_object, write_json
from experiments.methods import TABLE, checked, forward_passes
from experiments.planning.compiled import Cost, compile_cost
from experiments.planning.programs import NOTHING, scheduled, step_program
from experiments.training.loop import through_training, train
from experiments.training.step_parts import StepPart
from experiments.training.trainer import Trainer, make_trainer
from nmnc_jax.state import NoiseCorrelationState

Row = dict[str, Any]
EQUAL_STEPS, EQUAL_OPERATIONS = REGIMES = "equal steps", "equal operations"
FINAL = 1000
"""Seed of the first final run; the search uses smaller seeds."""


def draws(method: str, count: int) -> list[Row]:
    """Returns quasi-random settings, uniform in the logarithms of the method's search space.

    The sequence is the same for every method, so that all try the same learning rates.
    """
    space = TABLE[method].space
    places = qmc.Halton(len(space), scramble=True, rng=np.random.default_rng(0)).random(count)
    return [
        {field: scale.at(place) for (field, scale), place in zip(space.items(), row, strict=True)}
        for row in places
    ]


class Cell(NamedTuple):
    """A method on a task.

    Attributes:
        method: name of the method in the table of methods.
        task: name of the task.
        config: the configuration that all methods share on the task.
        directory: directory of its results, one file per run.
    """

    method: str
    task: str
    config: Config
    directory: Path

    @property
    def shared(self) -> Config:
        """The configuration with the method."""
        return self.config.replace(estimator=self.method)

    def kept(self, name: str, make: Callable[[], Row]) -> Row:
        """Returns a row, which is read from its file or made and written."""
        path = self.directory / f"{self.task}-{self.method}-{name}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_json(path, make())
        return read_object(path)

    @property
    def data(self) -> Dataset:
        """The data set of the task."""
        return _loaded(self.config)

    def refusal(self) -> str | None:
        """Returns why the method does not take the task's network, in one line; None if it does."""

        def tried() -> Row:
            try:
                make_trainer(checked(self.shared), self.data)
            except UserError as error:
                return {"refused": str(error)}
            return {"refused": None}

        return self.kept("fits", tried)["refused"]

    def search(self, count: int) -> Iterator[Row]:
        """Yields the results of settings on held-out data."""
        for number, settings in enumerate(draws(self.method, count)):
            config = self.shared.replace(**settings, seed=number, validation=True)

            def tried(config: Config = config, settings: Row = settings) -> Row:
                data = _loaded(self.config.replace(validation=True))
                found = _trained_and_tested(config, data, make_trainer(config, data))
                return {"settings": settings, **found}

            yield self.kept(f"draw{number}", tried)

    def best(self, count: int) -> Row:
        """Returns the settings with the highest score on held-out data."""
        return max(self.search(count), key=lambda row: row["score"])["settings"]

    def finals(self, settings: Row, seeds: int, regime: str) -> Iterator[Row]:
        """Yields the results of training with fresh seeds and one test."""
        config, train_one = self.shared.replace(**settings), _trained_and_measured
        if regime == EQUAL_OPERATIONS:
            steps = max(1, round(config.run.steps / self.costs(settings)["operations"]))
            config, train_one = config.replace(steps=steps, log_every=steps), _trained_and_tested

        @cache
        def trainer() -> Trainer:
            return make_trainer(config, self.data)

        for seed in range(FINAL, FINAL + seeds):

            def final(seed: int = seed) -> Row:
                found = train_one(config.replace(seed=seed), self.data, trainer())
                return {"seed": seed, **found}

            yield self.kept(f"{regime.split()[1]}-seed{seed}", final)

    def costs(self, settings: Row) -> Row:
        """Returns a step's operations and time relative to backpropagation's, and its memory."""
        config = self.shared.replace(**settings)
        plain = config.replace(estimator="backprop")

        def measured() -> Row:
            trainer, baseline = (make_trainer(each, self.data) for each in (config, plain))
            shares = scheduled(trainer, config)
            (plainly,) = baseline.parts(NOTHING)
            programs = [_compiled(trainer, config, self.data, part) for part in shares]
            of_backprop = _compiled(baseline, plain, self.data, plainly)
            seconds, _ = step_times(trainer, config, self.data, shares, rounds=10)
            of_plain, _ = step_times(baseline, plain, self.data, [plainly], rounds=10)

            def mean(each: Iterable[float]) -> float:
                return float(np.dot(list(shares.values()), list(each)))

            memory = trainer.template.estimator
            known = isinstance(memory, NoiseCorrelationState)
            return {
                "operations": mean(program.flops for program in programs) / of_backprop.flops,
                "milliseconds": 1000 * mean(seconds.values()),
                "over_backprop": mean(seconds.values()) / of_plain[plainly],
                "remembered_bytes": sum(
                    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory)
                ),
                "peak_bytes": max(program.peak_bytes for program in programs),
                "passes": forward_passes(config, len(memory.layout.taps) if known else 1),
            }

        return self.kept("costs", measured)


def _trained_and_tested(config: Config, data: Dataset, trainer: Trainer) -> Row:
    """Returns the score of a network after training, which is chance if the method diverges."""
    ((_, params),) = through_training(config, data, [config.run.steps], trainer)
    found = trainer.test(params)
    diverged = not np.isfinite(found["test_loss"])
    return {"score": data.chance if diverged else found["test_accuracy"], "diverged": diverged}


def _trained_and_measured(config: Config, data: Dataset, trainer: Trainer) -> Row:
    """Returns the score and the mean alignment of the credit."""
    records: list[Row] = []
    try:
        train(trainer, config, data, records.append)
    except Diverged:
        return {"score": data.chance, "diverged": True}
    alignment = records[-1].get("alignment")
    return {
        "score": records[-1]["test_accuracy"],
        "alignment": alignment and float(np.mean(list(alignment.values()))),
        "diverged": False,
    }


def _compiled(trainer: Trainer, config: Config, data: Dataset, part: StepPart) -> Cost:
    found = compile_cost(step_program(trainer, config, data, part))
    assert isinstance(found, Cost)
    return found


@lru_cache(maxsize=2)
def _loaded(config: Config) -> Dataset:
    """Loads the data set of a task; its training set and the held-out version are kept."""
    return load(config)
