"""The programs that a run is made of, and what the compiler says of them together."""

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
from experiments.training.trainer import Trainer, make_trainer
from nmnc_jax.types import Due

NOTHING = Due(probe=False, move=False)


class Plan(NamedTuple):
    """What the compiler says of a run; each figure is one chip's.

    Attributes:
        topology: what it was compiled for.
        chips: their number.
        steps: of each program that a training step may be.
        shares: of the run's steps that each of them takes.
        init: of the start, with its first basis.
        evaluation: of a batch of the test.
        backprop: of backpropagation's step, in the same run of the compiler.
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
        """Of the run's own programs."""
        return [*self.steps, self.init, self.evaluation]

    @property
    def too_large(self) -> list[Cost | TooLarge]:
        """Those that do not fit into a chip's memory, where it is known."""
        memory = self.topology.memory or float("inf")
        return [
            each for each in self.costs if isinstance(each, TooLarge) or each.peak_bytes > memory
        ]

    @property
    def fits(self) -> bool | None:
        """Whether all programs fit; None where a chip's memory is not known."""
        return False if self.too_large else None if self.topology.memory is None else True

    def flops_ratio(self, cost: Cost | TooLarge) -> float | None:
        """Operations of a program over those of backpropagation's step, where both are known."""
        if isinstance(cost, TooLarge) or isinstance(self.backprop, TooLarge):
            return None
        return cost.flops / self.backprop.flops

    @property
    def mean_flops_ratio(self) -> float | None:
        """The same of a step in the mean over the schedule."""
        ratios = [ratio for ratio in map(self.flops_ratio, self.steps) if ratio is not None]
        return float(np.dot(self.shares, ratios)) if len(ratios) == len(self.steps) else None

    def as_json(self) -> dict[str, Any]:
        """The form in which a plan is written."""
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
    """Compiles every program of a run, and backpropagation's step beside it.

    Args:
        config: the run.
        data: its data set, or one of its shapes.
        topology: what to compile for.
        report: called with what is known of each program as soon as it is.
        measure: whether to run the programs too, where all of them fit.

    Raises:
        UserError: if the network or the method refuses a setting.
    """
    devices = make_devices(config, topology.devices)
    devices.rows(config.run.batch)  # Refuses a batch that does not divide.

    def cost(program: Program) -> Cost | TooLarge:
        found = compile_cost(program)
        report(found)
        return found

    plain = config.replace(estimator="backprop")
    baseline = make_trainer(plain, data, devices)
    with refusals(plain):
        backprop = cost(step_program(baseline, plain, data, NOTHING)._replace(name="backprop"))
    trainer = make_trainer(config, data, devices)
    dues = Counter(map(trainer.due, range(config.run.steps)))
    with refusals(config):
        steps = [cost(step_program(trainer, config, data, due)) for due in sorted(dues)]
        init = cost(first_program(trainer, config, data))
        evaluation = cost(test_program(trainer, data))
    shares = [dues[due] / config.run.steps for due in sorted(dues)]
    planned = Plan(topology, devices.mesh.size, steps, shares, init, evaluation, backprop)
    if not measure or planned.too_large or isinstance(backprop, TooLarge):
        return planned
    by_due, start, test = program_times(trainer, config, data, dues)
    plainly, *_ = program_times(baseline, plain, data, [NOTHING])
    return planned._replace(
        steps=[_timed(step, by_due[step.due]) for step in steps],
        init=_timed(init, start),
        evaluation=_timed(evaluation, test),
        backprop=_timed(backprop, plainly[NOTHING]),
    )


def _timed(cost: Cost | TooLarge, seconds: float) -> Cost | TooLarge:
    return cost._replace(seconds=seconds) if isinstance(cost, Cost) else cost


def step_program(trainer: Trainer, config: Config, data: Dataset, due: Due) -> Program:
    """A training step in which this is due."""
    work = [what for what, is_due in (("probes", due.probe), ("basis update", due.move)) if is_due]
    name = "step with " + " and ".join(work) if work else "step"
    batch = trainer.devices.shapes(_one(data), config.run.batch)
    arguments = trainer.template, _key(trainer), batch
    return Program(name, due, trainer.step, arguments, {"due": due})


def first_program(trainer: Trainer, config: Config, data: Dataset) -> Program:
    """The start, with its first basis."""
    count = min(config.method.basis_batch, data.train_size)
    batch = trainer.devices.shapes(_one(data), count)
    return Program("init", NOTHING, trainer.start, (_key(trainer), batch), {})


def test_program(trainer: Trainer, data: Dataset) -> Program:
    """The test of one batch."""
    count = trainer.devices.size(min(CHUNK, data.test_size))
    batch = trainer.devices.shapes(_one(data), count)
    return Program("evaluation", NOTHING, trainer.tested, (trainer.template.params, batch), {})


def _one(data: Dataset) -> Any:
    return data.train_examples(np.arange(1))


def _key(trainer: Trainer) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=trainer.devices.replicated)
