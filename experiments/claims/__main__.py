"""Tests a claim on real data: ``python -m experiments.claims NAME [--out DIR] [--field value]``."""

import importlib
import pkgutil
import shlex
from collections.abc import Sequence
from typing import Any

from experiments import claims
from experiments.claims.study import Options, Study
from experiments.command import check_layers, run_command, take
from experiments.configs import load_config
from experiments.configuration import same_config, write_config
from experiments.data import TASKS, load, load_in_memory
from experiments.directories import output_directory
from experiments.errors import UserError
from experiments.machine import machine, versions
from experiments.methods import checked


def names() -> list[str]:
    """Returns the names of the claims."""
    found = [module.name for module in pkgutil.iter_modules(claims.__path__)]
    return sorted(set(found) - {"__main__", "study", "verdicts"})


def _claim(name: str) -> Any:
    return importlib.import_module(f"experiments.claims.{name}")


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures, and judges."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        known = "\n".join(f"  {each}: {_claim(each).__doc__.splitlines()[0]}" for each in names())
        print(f"python -m experiments.claims CLAIM [--help] [options]\n\nClaims:\n{known}")
        return
    if name not in names():
        raise UserError(f"claim is {name!r}; python -m experiments.claims takes one of {names()}")
    claim = _claim(name)
    config = load_config("photos").replace(**claim.DEFAULTS)
    options = take(
        Options,
        arguments[1:],
        default=Options(config=config),
        prog=f"python -m experiments.claims {name}",
        description=claim.__doc__,
    )
    check_layers(config, options.config, arguments)
    config = checked(options.config)
    seeds = config.run.seeds(options.seeds)
    if options.resume and options.out is None:
        raise UserError("resume takes the claim's directory: --out DIR")
    asked = {"claim": name, "seeds": options.seeds, "full": options.full,
             "neural": [str(path) for path in options.neural]}  # fmt: skip
    origin = {
        "command": f"python -m experiments.claims {shlex.join(arguments)}",
        "machine": machine(),
        "versions": versions(),
    }
    going = options.resume and same_config(options.out, config, "claim", list(origin), **asked)
    if config.data.is_task != (name == "recurrent"):
        wants = f"one of {list(TASKS)}" if name == "recurrent" else "images"
        raise UserError(f"data is {config.data.name!r}; claim {name} takes {wants}")
    with output_directory(options.out, f"claim-{name}", occupied=going) as directory:
        data = load(config) if config.data.is_task else load_in_memory(config)
        if not going:
            write_config(directory, config, **asked, **origin)
        claim.main(Study(directory, config, seeds, options.full, data, options.neural))


if __name__ == "__main__":
    run_command(main)
