"""The package: one-way imports, nothing run at import, doctests."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import nmnc_jax

PACKAGE = Path(nmnc_jax.__file__).parent
PIPELINE = (
    "types",
    "checks",
    "taps",
    "shapes",
    "subspace",
    "probes",
    "correlate",
    "feedback",
    "state",
    "credit",
    "general",
    "baselines",
    "estimators",
    "groups",
    "transforms",
    "diagnostics",
    "linen",
    "models",
)
MODULES = sorted(m.name for m in pkgutil.walk_packages(nmnc_jax.__path__, "nmnc_jax."))


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nmnc_jax."):
            yield node.module.split(".")[1]


def test_every_module_has_its_place_in_the_pipeline():
    assert {name.split(".")[1] for name in MODULES} == set(PIPELINE)


@pytest.mark.parametrize("module", PIPELINE[:-1])
def test_imports_go_one_way(module):
    before = PIPELINE[: PIPELINE.index(module)]
    assert set(imported_by(PACKAGE / f"{module}.py")) <= set(before)


def test_import_pulls_in_nothing_heavy():
    code = "import sys, nmnc_jax; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "flax", "optax", "experiments"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run_as_written(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_every_public_function_has_an_example():
    for name in nmnc_jax.__all__:
        public = getattr(nmnc_jax, name)
        if callable(public) and not isinstance(public, type):
            documented = public.__doc__ or ""
            assert name == "no_tap" or ">>>" in documented, name


def test_readme_example_runs_and_learns(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    with jax.numpy_dtype_promotion("standard"):
        exec(code, {})
    assert float(capsys.readouterr().out.split()[-1]) < 0.3
