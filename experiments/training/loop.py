"""The training loop."""

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import jax
import numpy as np

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.errors import Diverged, Stopped
from experiments.training.checkpoints import Checkpoints
from experiments.training.clock import StepClock
from experiments.training.network import refusals
from experiments.training.position import begin, last_position, position_of
from experiments.training.trainer import Trainer, make_trainer

SPEED, UTILISATION = "examples_per_second_per_chip", "model_flops_utilisation"
TIMES = ("seconds", SPEED, UTILISATION)
"""Names of the parts of a measurement that differ between two runs of the same numbers."""


def through_training(
    config: Config, data: Dataset, stages: Collection[int], trainer: Trainer | None = None
) -> Iterator[Any]:
    """Trains a network without measuring it.

    Args:
        config: the configuration of the run.
        data: the data set.
        stages: the steps at which parameters are returned.
        trainer: the functions of the run, if they are built already.

    Yields:
        ``(step, params)`` at each stage, in order; the next step donates the parameters.
    """
    trainer, run = trainer or make_trainer(config, data), config.run
    state = begin(trainer, config)
    rows = trainer.devices.rows(run.batch)
    steps = range(max(stages) + 1)
    key = jax.random.key(run.seed)
    batches = data.train_batches(run.batch, run.seed, steps=steps, rows=rows)
    for step, examples in enumerate(batches):
        if step in stages:
            yield step, state.params
        if step < steps[-1]:
            batch = trainer.devices.place(run.batch, examples)
            now = jax.random.fold_in(key, step)
            with refusals(config):
                state, _ = trainer.step(state, now, batch, due=trainer.due(step))


@contextmanager
def asked_to_stop() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step that returns whether a process was sent SIGTERM or SIGINT.

    The first SIGINT (Ctrl-C) is treated as SIGTERM; a second one ends the process at once.
    """
    before = signal.getsignal(signal.SIGINT)

    def as_termination(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, as_termination)
    try:
        with _asked_to_terminate() as asked:
            yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _asked_to_terminate() -> Iterator[Callable[[int], bool]]:
    """Yields the same function for SIGTERM only."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda step: asked
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _written(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Waits at the end for the last checkpoint, so that a further SIGTERM does not prevent it."""
    try:
        yield
    finally:
        if checkpoints:
            checkpoints.wait()


def train(
    trainer: Trainer,
    config: Config,
    data: Dataset,
    report: Callable[[dict[str, Any]], None],
    checkpoints: Checkpoints | None = None,
) -> dict[str, Any]:
    """Trains one network.

    Args:
        trainer: the functions of the run.
        config: the configuration of the run.
        data: the data set.
        report: function that is called with each measurement, the first before any step.
        checkpoints: checkpoints to which the run is saved and from which it is continued.

    Returns:
        The summary: estimator, test accuracy, steps, seconds, milliseconds per step, examples per
        second and chip, probes. The times are those of the typical interval between measurements,
        without steps that compile, and left out if no other steps were taken.

    Raises:
        Diverged: if the loss is no longer finite. The message names the step.
        Stopped: on SIGTERM or SIGINT, after saving.
    """
    run = config.run
    measure_key, step_key = jax.random.split(jax.random.key(run.seed))
    found = last_position(trainer, config, checkpoints) if checkpoints else None
    if found is None:
        found = 0, position_of(config, begin(trainer, config), step_key, [], 0.0)
    first, position = found
    state, step_key = position.state, jax.random.wrap_key_data(position.key)
    losses: list[Any] = list(position.losses[: (first - 1) % run.log_every + 1 if first else 0])
    start = time.perf_counter() - float(position.seconds)
    devices, steps = trainer.devices, range(first, run.steps + 1)
    batches = data.train_batches(run.batch, run.seed, steps=steps, rows=devices.rows(run.batch))
    step_times, record = [], {}
    per_chip = run.batch / devices.mesh.size
    clock = StepClock()
    with refusals(config), asked_to_stop() as asked, _written(checkpoints):
        for step, examples in zip(steps, batches, strict=True):
            batch = devices.place(run.batch, examples)
            stop = asked(step)
            due = stop or step % run.checkpoint_every == 0 or step == run.steps
            if checkpoints and step > first and due:
                spent = time.perf_counter() - start
                checkpoints.save(step, position_of(config, state, step_key, losses, spent))
            if stop:
                raise Stopped(f"stopped at step {step}")
            if step % run.log_every == 0 or step == run.steps:
                interval = [float(loss) for loss in losses]
                rate, seconds = {}, clock.seconds()
                if seconds:
                    step_times.append(seconds)
                    rate = {SPEED: per_chip / seconds}
                for place, loss in enumerate(interval):
                    if not np.isfinite(loss):
                        at = step - len(interval) + place
                        raise Diverged(f"the loss is {loss} at step {at}; the run was stopped")
                measured = trainer.measure(state, jax.random.fold_in(measure_key, step), batch)
                record = {
                    "step": step,
                    "loss": float(np.mean(interval)) if interval else None,
                    **measured,
                    **rate,
                    "seconds": time.perf_counter() - start,
                }
                report(record)
                losses = []
                clock.restart()
            if step < run.steps:
                work, now = trainer.due(step), jax.random.fold_in(step_key, step)
                take = partial(trainer.step, state, now, batch, due=work)
                state, loss = clock.step(trainer.parts(work), take, before=losses)
                losses.append(loss)
    timed = {}
    if step_times:
        typical = float(np.median(step_times))
        timed = {"step_milliseconds": 1000 * typical, SPEED: per_chip / typical}
    return {
        "estimator": config.method.estimator,
        "test_accuracy": record["test_accuracy"],
        "train_accuracy": record["train_accuracy"],
        "steps": run.steps,
        "seconds": time.perf_counter() - start,
        **timed,
        "probes": config.method.probes,
        "seed": run.seed,
    }
