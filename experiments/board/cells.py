"""A cell of the leaderboard: the search and the final runs of a method on a task."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import qmc

from experiments.analysis.cost import mean_step
from experiments.configuration import Config
from experiments.data import Dataset, load
from experiments.errors import Diverged, UserError
from experiments.files import read_object, write_json
from experiments.methods import TABLE, checked, forward_passes
from experiments.planning.compiled import Cost, compile_cost
from experiments.planning.programs import step_program
from experiments.training.loop import through_training, train
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

    def refusal(self) -> str | None:
        """Returns why the method does not take the task's network, in one line; None if it does."""

        def tried() -> Row:
            try:
                config = checked(self.shared)
                make_trainer(config, _data(config))
            except UserError as error:
                return {"refused": str(error)}
            return {"refused": None}

        return self.kept("fits", tried)["refused"]

    def search(self, count: int) -> Iterator[Row]:
        """Yields the results of settings on held-out data."""
        for number, settings in enumerate(draws(self.method, count)):
            config = self.shared.replace(**settings, seed=number, validation=True)

            def tried(config: Config = config, settings: Row = settings) -> Row:
                return {"settings": settings, **_trained_and_tested(config)}

            yield self.kept(f"draw{number}", tried)

    def best(self, count: int) -> Row:
        """Returns the settings with the highest score on held-out data."""
        return max(self.search(count), key=lambda row: row["score"])["settings"]

    def finals(self, settings: Row, seeds: int, regime: str) -> Iterator[Row]:
        """Yields the results of training with fresh seeds and one test."""
        config = self.shared.replace(**settings)
        if regime == EQUAL_OPERATIONS:
            steps = max(1, round(config.run.steps / self.costs(settings)["operations"]))
            config = config.replace(steps=steps, log_every=steps)
        data = _data(config)

        @cache
        def trainer() -> Trainer:
            return make_trainer(config, data)

        for seed in range(FINAL, FINAL + seeds):

            def trained(seed: int = seed) -> Row:
                records: list[Row] = []
                try:
                    train(trainer(), config.replace(seed=seed), data, records.append)
                except Diverged:
                    return {"seed": seed, "score": data.chance, "diverged": True}
                alignment = records[-1].get("alignment")
                return {
                    "seed": seed,
                    "score": records[-1]["test_accuracy"],
                    "alignment": alignment and float(np.mean(list(alignment.values()))),
                    "diverged": False,
                }

            def tested(seed: int = seed) -> Row:
                return {"seed": seed, **_trained_and_tested(config.replace(seed=seed))}

            make = trained if regime == EQUAL_STEPS else tested
            yield self.kept(f"{regime.split()[1]}-seed{seed}", make)

    def costs(self, settings: Row) -> Row:
        """Returns a step's operations and time relative to backpropagation's, and its memory."""
        config = self.shared.replace(**settings)

        def measured() -> Row:
            data = _data(config)
            trainer = make_trainer(config, data)
            plain = config.replace(estimator="backprop")
            baseline = make_trainer(plain, data)
            dues = Counter(map(trainer.due, range(config.run.steps)))
            shares = {due: count / config.run.steps for due, count in sorted(dues.items())}
            programs = [_compiled(trainer, config, data, due) for due in shares]
            own = sum(s * p.flops for s, p in zip(shares.values(), programs, strict=True))
            of_backprop = _compiled(baseline, plain, data, baseline.due(0))
            milliseconds, ratio = mean_step(trainer, baseline, config, data, shares)
            memory = trainer.template.estimator
            known = isinstance(memory, NoiseCorrelationState)
            taps = len(memory.layout.taps) if known else 1
            return {
                "operations": own / of_backprop.flops,
                "milliseconds": milliseconds,
                "over_backprop": ratio,
                "remembered_bytes": sum(
                    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory)
                ),
                "peak_bytes": max(program.peak_bytes for program in programs),
                "passes": forward_passes(config, taps),
            }

        return self.kept("costs", measured)


def _trained_and_tested(config: Config) -> Row:
    """Returns the score of a network after training, which is chance if the method diverges."""
    data = _data(config)
    ((_, params),) = through_training(config, data, [config.run.steps])
    found = make_trainer(config, data).test(params)
    diverged = not np.isfinite(found["test_loss"])
    return {"score": data.chance if diverged else found["test_accuracy"], "diverged": diverged}


def _compiled(trainer: Trainer, config: Config, data: Dataset, due: Any) -> Cost:
    found = compile_cost(step_program(trainer, config, data, due))
    assert isinstance(found, Cost)
    return found


_SETS: dict[Any, Dataset] = {}


def _data(config: Config) -> Dataset:
    """Loads a data set once for all cells of a task."""
    known = config.data, config.model.noise > 0
    if known not in _SETS:
        _SETS.clear()
        _SETS[known] = load(config)
    return _SETS[known]
