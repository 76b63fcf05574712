"""Collects claims in one page: ``python -m experiments.report DIR``.

DIR contains the directories of claims (their --out). The page, DIR/report.html, is self-contained
and shows verdicts, figures, commands, versions and machines.
"""

import base64
import dataclasses
import html
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.command import run_command, take
from experiments.errors import UserError

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
img { width: 100% } code { background: #eee; overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .3rem .6rem; text-align: left;
border-bottom: 1px solid #ccc; vertical-align: top }
.supported { color: #060 } .not { color: #a00 } .undecided { color: #850 }
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.report`."""

    directory: tyro.conf.Positional[Path]
    """Directory that contains the directories of the claims."""


def read_claims(directory: Path) -> list[tuple[Path, dict[str, Any], list[dict[str, Any]]]]:
    """Returns the directory, configuration and verdicts of every complete claim.

    Raises:
        UserError: if the directory contains no claim.
    """
    claims = []
    for path in sorted(directory.glob("*/verdicts.json")):
        config = json.loads((path.parent / "config.json").read_text())
        claims.append((path.parent, config, json.loads(path.read_text())))
    if not claims:
        raise UserError(f"{directory} holds no claim; make one with --out {directory}/NAME")
    return claims


def page(claims: list[tuple[Path, dict[str, Any], list[dict[str, Any]]]]) -> str:
    """Returns the HTML of the page."""
    rows = "".join(
        f"<tr><td><a href='#{directory.name}'>{directory.name}</a></td>"
        f"<td>{html.escape(verdict['statement'])}</td><td>{_result(verdict)}</td>"
        f"<td>{html.escape(verdict['quantity'])}</td></tr>"
        for directory, _, verdicts in claims
        for verdict in verdicts
    )
    head = "<tr><th>claim</th><th>statement</th><th>verdict</th><th>quantity</th></tr>"
    sections = "".join(_section(*claim) for claim in claims)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>nmnc_jax: claims</title>"
        f"<style>{STYLE}</style><h1>Claims</h1><table>{head}{rows}</table>{sections}</html>\n"
    )


def _result(verdict: dict[str, Any]) -> str:
    kind = verdict["verdict"].split()[0]
    numbers = f"{verdict['mean']:.3g} [{verdict['low']:.3g}, {verdict['high']:.3g}]"
    return f"<span class='{kind}'>{verdict['verdict']}</span><br>{numbers}"


def _section(directory: Path, config: dict[str, Any], verdicts: list[dict[str, Any]]) -> str:
    claim = config["claim"]
    about = importlib.import_module(f"experiments.claims.{claim}").__doc__ or ""
    image = base64.b64encode((directory / f"{claim}.png").read_bytes()).decode()
    tests = "; ".join(sorted({verdict["test"] for verdict in verdicts}))
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return (
        f"<h2 id='{directory.name}'>{directory.name}</h2>"
        f"<p>{html.escape(about.strip())}</p>"
        f"<img alt='figure of {claim}' src='data:image/png;base64,{image}'>"
        f"<p>Data: {config['data']}. {html.escape(tests)}.</p>"
        f"<p><code>{html.escape(config['command'])}</code></p>"
        f"<p>{html.escape(config['machine'])}; {html.escape(versions)}</p>"
    )


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and writes the page."""
    options = take(Options, arguments, prog="python -m experiments.report", description=__doc__)
    path = options.directory / "report.html"
    path.write_text(page(read_claims(options.directory)))
    print(f"report: {path}")


if __name__ == "__main__":
    run_command(main)
