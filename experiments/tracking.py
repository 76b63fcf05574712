"""Writes measurements where TensorBoard and Weights & Biases read them."""

import contextlib
import importlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.configuration import Config
from experiments.errors import UserError, in_one_line

Record = dict[str, Any]
Write = Callable[[int, dict[str, float]], None]
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package that writes for each tracker."""


@contextlib.contextmanager
def tracked(directory: Path, config: Config) -> Iterator[Callable[[Record], None]]:
    """Yields a function that writes a measurement to the tracker that the configuration names.

    Names within a measurement are joined by a slash, as in ``alignment/conv1``. A resumed run
    continues its earlier measurements.

    Args:
        directory: directory of the run.
        config: the configuration of the run.

    Raises:
        UserError: if the tracker's package is missing, or if Weights & Biases has no account.
    """
    name = config.run.log_to
    if name is None:
        yield lambda record: None
        return
    try:
        package = importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise UserError(
            f"log_to is {name!r}, which needs {PACKAGES[name]}: pip install 'nmnc_jax[{name}]'"
        ) from error
    with contextlib.ExitStack() as stack:
        opened: list[Write] = []

        def track(record: Record) -> None:
            if not opened:
                writer = _WRITERS[name](package, directory, config, record["step"])
                opened.append(stack.enter_context(writer))
            known = jax.tree.leaves_with_path(record)  # None is no leaf.
            named = {jax.tree_util.keystr(at, simple=True, separator="/"): v for at, v in known}
            step = named.pop("step")
            opened[0](step, named)

        yield track


@contextlib.contextmanager
def _tensorboard(package: Any, directory: Path, config: Config, first: int) -> Iterator[Write]:
    del config
    # TensorBoard drops earlier measurements from the first step on.
    with package.SummaryWriter(str(directory / "tensorboard"), purge_step=first) as writer:

        def write(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield write


@contextlib.contextmanager
def _wandb(package: Any, directory: Path, config: Config, first: int) -> Iterator[Write]:
    del first
    identity = directory / "wandb_id"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex)
    try:
        run = package.init(
            project="nmnc_jax", name=directory.name, dir=str(directory), config=config.fields(),
            id=identity.read_text(), resume="allow",
        )  # fmt: skip
    except package.Error as error:
        raise UserError(
            f"log_to is 'wandb': {in_one_line(error)} WANDB_MODE=offline needs no account."
        ) from error
    with run:
        yield lambda step, values: run.log(values, step=step)


_WRITERS = {"tensorboard": _tensorboard, "wandb": _wandb}
