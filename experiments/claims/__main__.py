"""One claim on real data: ``python -m experiments.claims NAME [--out DIR] [--field value]``."""

import dataclasses
import importlib
import pkgutil
import shlex
from collections.abc import Sequence

from experiments import claims
from experiments.claims.study import Options, Study
from experiments.command import output_directory, run_command, take, write_json
from experiments.configuration import UserError, load_config, seeds_of
from experiments.data import TASKS, load, load_in_memory
from experiments.files import read_object
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
    options = take(
        Options,
        arguments[1:],
        default=Options(config=config),
        prog=f"python -m experiments.claims {name}",
        description=claim.__doc__,
    )
    config = options.config
    config.check()
    seeds = seeds_of(config, options.seeds)
    if options.resume and options.out is None:
        raise UserError("resume takes the claim's directory: --out DIR")
    going = options.resume and is_same_run(options.out, config)
    takes_task = config.data in TASKS
    if takes_task != (name == "recurrent"):
        wants = f"one of {list(TASKS)}" if name == "recurrent" else "images"
        raise UserError(f"data is {config.data!r}; claim {name} takes {wants}")
    data = load(config) if takes_task else load_in_memory(config)
    asked = {"claim": name, "seeds": options.seeds, "full": options.full,
             "neural": [str(path) for path in options.neural]}  # fmt: skip
    with output_directory(options.out, f"claim-{name}", occupied=going) as directory:
        if going:
            there = read_object(directory / "config.json")
            for field, value in asked.items():
                if there.get(field) != value:
                    raise UserError(
                        f"{field} is {value!r}; the claim in {directory} has {there.get(field)!r}"
                    )
        else:
            told = {
                **asked,
                "command": f"python -m experiments.claims {shlex.join(arguments)}",
                "machine": machine(),
                "versions": versions(),
            }
            write_json(directory / "config.json", {**dataclasses.asdict(config), **told})
        claim.main(Study(directory, config, seeds, options.full, data, options.neural))


if __name__ == "__main__":
    run_command(main)
