"""The programs of a run, and the plan of their costs."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.analysis.cost import program_times
from experiments.configuration import Config
from experiments.data import Dataset
from experiments.planning.compiled import Cost, Program, TooLarge, compile_cost
from experiments.planning.topology import Topology
from experiments.training.measuring import CHUNK
from experiments.training.mesh import make_devices
from experiments.training.network import refusals
from experiments.training.step_parts import StepPart
from experiments.training.trainer import Trainer, make_trainer
from nmnc_jax.types import Due

NOTHING = Due(probe=False, move=False)


class Plan(NamedTuple):
    """The costs of the programs of a run on one chip.

    Attributes:
        topology: the chips for which it was compiled.
        chips: number of chips.
        steps: costs of the programs that take the training steps.
        shares: share of the run's steps that run each of these programs.
        init: cost of the start, with the first basis.
        evaluation: cost of the test of a batch.
        backprop: cost of a step of backpropagation.
    """

    topology: Topology
    chips: int
    steps: list[Cost | TooLarge]
    shares: list[float]
    init: Cost | TooLarge
    evaluation: Cost | TooLarge
    backprop: Cost | TooLarge

    @property
    def costs(self) -> list[Cost | TooLarge]:
        """Costs of the programs of the run, without backpropagation."""
        return [*self.steps, self.init, self.evaluation]

    @property
    def too_large(self) -> list[Cost | TooLarge]:
        """The programs that do not fit into a chip's memory, if it is known."""
        memory = self.topology.memory or float("inf")
        return [
            each for each in self.costs if isinstance(each, TooLarge) or each.peak_bytes > memory
        ]

    @property
    def fits(self) -> bool | None:
        """Whether all programs fit; None if a chip's memory is not known."""
        return False if self.too_large else None if self.topology.memory is None else True

    def flops_ratio(self, cost: Cost | TooLarge) -> float | None:
        """Returns a program's operations relative to backpropagation's step; None if unknown."""
        if isinstance(cost, TooLarge) or isinstance(self.backprop, TooLarge):
            return None
        return cost.flops / self.backprop.flops

    @property
    def mean_flops_ratio(self) -> float | None:
        """The same ratio for a step, averaged over the schedule."""
        ratios = [ratio for ratio in map(self.flops_ratio, self.steps) if ratio is not None]
        return float(np.dot(self.shares, ratios)) if len(ratios) == len(self.steps) else None

    def as_json(self) -> dict[str, Any]:
        """Returns the form in which a plan is written."""
        return {
            "topology": self.topology.name,
            "chips": self.chips,
            "fits": self.fits,
            "programs": [step.as_json() for step in self.steps],
            "init": self.init.as_json(),
            "evaluation": self.evaluation.as_json(),
            "backprop": self.backprop.as_json(),
            "mean_flops_ratio": self.mean_flops_ratio,
        }


def plan(
    config: Config,
    data: Dataset,
    topology: Topology,
    report: Callable[[Cost | TooLarge], None],
    *,
    measure: bool = False,
) -> Plan:
    """Compiles every program of a run, and a step of backpropagation.

    Args:
        config: the configuration of the run.
        data: the data set, or one with the same shapes.
        topology: the chips to compile for.
        report: function that is called with the cost of each program.
        measure: whether to also run the programs, if all of them fit.

    Raises:
        UserError: if the network or the method does not take a setting.
    """
    devices = make_devices(config, topology.devices)
    devices.rows(config.run.batch)  # Raises an error for a batch that does not divide.

    def cost(program: Program) -> Cost | TooLarge:
        found = compile_cost(program)
        report(found)
        return found

    plain = config.replace(estimator="backprop")
    baseline = make_trainer(plain, data, devices)
    with refusals(plain):
        (step,) = baseline.parts(NOTHING)
        backprop = cost(step_program(baseline, plain, data, step)._replace(name="backprop"))
    trainer = make_trainer(config, data, devices)
    shares = scheduled(trainer, config)
    with refusals(config):
        steps = [cost(step_program(trainer, config, data, part)) for part in shares]
        init = cost(first_program(trainer, config, data))
        evaluation = cost(test_program(trainer, data))
    planned = Plan(
        topology, devices.mesh.size, steps, list(shares.values()), init, evaluation, backprop
    )
    if not measure or planned.too_large or isinstance(backprop, TooLarge):
        return planned
    seconds, start, test = program_times(trainer, config, data, shares)
    plainly, *_ = program_times(baseline, plain, data, [step])
    return planned._replace(
        steps=[_timed(cost, seconds[part]) for cost, part in zip(steps, shares, strict=True)],
        init=_timed(init, start),
        evaluation=_timed(evaluation, test),
        backprop=_timed(backprop, plainly[step]),
    )


def scheduled(trainer: Trainer, config: Config) -> dict[StepPart, float]:
    """Returns the programs of a run's steps, and for each the share of the steps that run it."""
    dues = Counter(map(trainer.due, range(config.run.steps)))
    runs: Counter[StepPart] = Counter()
    for due in sorted(dues):
        for part in trainer.parts(due):
            runs[part] += dues[due]
    return {part: count / config.run.steps for part, count in runs.items()}


def _timed(cost: Cost | TooLarge, seconds: float) -> Cost | TooLarge:
    return cost._replace(seconds=seconds) if isinstance(cost, Cost) else cost


def step_program(trainer: Trainer, config: Config, data: Dataset, part: StepPart) -> Program:
    """Returns a program of a training step."""
    batch = trainer.devices.shapes(_one(data), config.run.batch)
    arguments = trainer.template, _key(trainer), batch
    assert part.due is not None
    return Program(part.name, part.due, part.function, arguments, {"due": part.due})


def first_program(trainer: Trainer, config: Config, data: Dataset) -> Program:
    """Returns the program of the start, with the first basis."""
    count = min(config.method.basis_batch, data.train_size)
    batch = trainer.devices.shapes(_one(data), count)
    return Program("init", NOTHING, trainer.start, (_key(trainer), batch), {})


def test_program(trainer: Trainer, data: Dataset) -> Program:
    """Returns the program of the test of one batch."""
    count = trainer.devices.size(min(CHUNK, data.test_size))
    batch = trainer.devices.shapes(_one(data), count)
    return Program("evaluation", NOTHING, trainer.tested, (trainer.template.params, batch), {})


def _one(data: Dataset) -> Any:
    return data.train_examples(np.arange(1))


def _key(trainer: Trainer) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=trainer.devices.replicated)
