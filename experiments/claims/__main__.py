"""One claim on real data: ``python -m experiments.claims NAME [--out DIR] [--field value]``."""

import dataclasses
import importlib
import json
import pkgutil
import shlex
from collections.abc import Sequence

import tyro

from experiments import claims
from experiments.claims.study import Options, Study
from experiments.command import open_directory, run_command, write_json
from experiments.config import UserError, load_config
from experiments.data import TASKS, load, load_in_memory
from experiments.machine import machine, versions
from experiments.train import is_same_run


def names() -> list[str]:
    """The claims that are shipped."""
    found = [module.name for module in pkgutil.iter_modules(claims.__path__)]
    return sorted(set(found) - {"__main__", "study"})


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures, and judges."""
    name = arguments[0] if arguments else ""
    if name not in names():
        raise UserError(f"claim is {name!r}; python -m experiments.claims takes one of {names()}")
    claim = importlib.import_module(f"experiments.claims.{name}")
    config = dataclasses.replace(load_config("photos"), **claim.DEFAULTS)
    options = tyro.cli(
        Options,
        default=Options(config=config),
        args=list(arguments[1:]),
        prog=f"python -m experiments.claims {name}",
        description=claim.__doc__,
    )
    if options.seeds < 1:
        raise UserError(f"seeds is {options.seeds}; it takes at least 1")
    config = options.config
    config.check()
    if options.resume and options.out is None:
        raise UserError("resume takes the claim's directory: --out DIR")
    going = options.resume and is_same_run(options.out, config)
    takes_task = config.data in TASKS
    if takes_task != (name == "recurrent"):
        wants = f"one of {list(TASKS)}" if name == "recurrent" else "images"
        raise UserError(f"data is {config.data!r}; claim {name} takes {wants}")
    data = load(config) if takes_task else load_in_memory(config)
    directory = open_directory(options.out, f"claim-{name}", occupied=going)
    asked = {"claim": name, "seeds": options.seeds, "full": options.full,
             "neural": [str(path) for path in options.neural]}  # fmt: skip
    if going:
        there = json.loads((directory / "config.json").read_text())
        for field, value in asked.items():
            if there[field] != value:
                raise UserError(
                    f"{field} is {value!r}; the claim in {directory} has {there[field]!r}"
                )
    else:
        told = {
            **asked,
            "command": f"python -m experiments.claims {shlex.join(arguments)}",
            "machine": machine(),
            "versions": versions(),
        }
        write_json(directory / "config.json", {**dataclasses.asdict(config), **told})
    seeds = range(config.seed, config.seed + options.seeds)
    claim.main(Study(directory, config, seeds, options.full, data, options.neural))


if __name__ == "__main__":
    run_command(main)
