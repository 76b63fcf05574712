"""The package: one-way imports, nothing run at import, doctests."""

import ast
import contextlib
import doctest
import graphlib
import importlib
import io
import os
import pkgutil
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import chex
import jax
import optax
import pytest

import experiments
import nmnc_jax

EXPERIMENTS = Path(experiments.__file__).parent
PACKAGE = Path(nmnc_jax.__file__).parent
ROOT = PACKAGE.parent
PIPELINE = (
    "types",
    "sharding",
    "stacking",
    "checks",
    "taps",
    "dependence",
    "layout",
    "linear_stages",
    "model_check",
    "components",
    "subspace",
    "probes",
    "correlate",
    "feedback",
    "following",
    "readouts",
    "schedule",
    "credit",
    "state",
    "noise_correlation",
    "backprop",
    "weight_space",
    "ranks",
    "methods",
    "groups",
    "transforms",
    "diagnostics",
    "layers",
    "linen",
    "models",
)
LAYERS = (
    "errors",
    "files",
    "machine",
    "progress",
    "directories",
    "configuration",
    "configs",
    "data",
    "methods",
    "training",
    "analysis",
    "planning",
    "board",
    "tracking",
    "runs",
    "command",
    "claims",
)
COMMANDS = ("compare", "crossover", "leaderboard", "plan", "prepare", "report", "train")
"""Of the experiments, above all layers: none imports another."""
MODULES = sorted(m.name for m in pkgutil.walk_packages(nmnc_jax.__path__, "nmnc_jax."))


def imported_by(path, package="nmnc_jax"):
    """The modules of a package that a file imports, and names that it imports from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def places(path, package="nmnc_jax"):
    """The parts of a package that a file, or those in a folder, import."""
    files = path.glob("**/*.py") if path.is_dir() else [path.with_suffix(".py")]
    found = {name for file in files for name in imported_by(file, package)}
    return {name.split(".")[1] for name in found} - {path.name}


def test_every_module_has_its_place_in_the_pipeline():
    assert {name.split(".")[1] for name in MODULES} == set(PIPELINE)
    there = {module.name for module in pkgutil.iter_modules(experiments.__path__)}
    assert there == {*LAYERS, *COMMANDS}


@pytest.mark.parametrize("module", PIPELINE[:-1])
def test_imports_go_one_way(module):
    assert places(PACKAGE / module) <= {*PIPELINE[: PIPELINE.index(module)]}


@pytest.mark.parametrize("module", [*LAYERS, *COMMANDS])
def test_imports_of_experiments_go_one_way(module):
    below = LAYERS[: LAYERS.index(module)] if module in LAYERS else LAYERS
    assert places(EXPERIMENTS / module, "experiments") <= {*below}


@pytest.mark.parametrize("folder", [PACKAGE, EXPERIMENTS], ids=lambda folder: folder.name)
def test_no_imports_go_in_a_circle(folder):
    files = {
        ".".join((folder.name, *file.relative_to(folder).with_suffix("").parts)): file
        for file in folder.glob("**/*.py")
    }
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph = {
        name: {n if n in files else n.rpartition(".")[0] for n in imported_by(file, folder.name)}
        for name, file in files.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_import_pulls_in_nothing_heavy():
    code = "import sys, nmnc_jax; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "flax", "optax", "experiments"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run_as_written(module):
    # Optax mixes dtypes.
    promotion = "standard" if module == "nmnc_jax.transforms" else "strict"
    with jax.numpy_dtype_promotion(promotion):
        result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_every_public_function_has_an_example():
    for name in nmnc_jax.__all__:
        public = getattr(nmnc_jax, name)
        if callable(public) and not isinstance(public, type):
            documented = public.__doc__ or ""
            assert name == "no_tap" or ">>>" in documented, name


def blocks_of(page):
    """The Python blocks of a page, in order."""
    return [part.split("```")[0] for part in (ROOT / page).read_text().split("```python\n")[1:]]


def test_readme_example_learns():
    (block,) = blocks_of("README.md")
    printed = io.StringIO()
    with jax.numpy_dtype_promotion("standard"), contextlib.redirect_stdout(printed):
        exec(block, {})
    assert float(printed.getvalue().split()[-1]) < 0.3


def test_recipes_train():
    """Each recipe continues those before it; its estimator reduces the loss."""
    namespace = {}
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    ):
        blocks = blocks_of("docs/recipes.md")
        assert len(blocks) == 10
        for block in blocks:
            exec(block, namespace)
            falls(namespace)
    # Of the memory of backpropagation, in the last recipe: .008 and .011 by two versions of XLA.
    assert namespace["share"] < 0.015


def falls(namespace):
    """Fifteen steps of Adam."""
    estimator, batch = namespace["estimator"], (namespace["inputs"], namespace["targets"])
    optimiser = optax.adam(5e-3)

    def step(carry, key):
        params, moments, memory = carry
        gradients, memory, info = estimator.estimate(key, params, batch, memory)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
        updates, moments = optimiser.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, memory), info.loss

    params = namespace["params"]
    start = params, optimiser.init(params), estimator.init(params, batch)
    keys = jax.random.split(jax.random.key(0), 15)
    losses = jax.jit(lambda start, keys: jax.lax.scan(step, start, keys)[1])(start, keys)
    assert float(losses[-1]) < float(losses[0]) - 0.02, losses


def test_the_wheel_holds_the_library_with_its_types_and_nothing_else(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nmnc_jax", "experiments", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"nmnc_jax"}
    assert {"nmnc_jax/py.typed", "nmnc_jax/models/conv.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    subprocess.run([*pip, "install", "-q", "--no-deps", "-t", target, wheel], check=True)
    code = "import nmnc_jax, nmnc_jax.models; print(nmnc_jax.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(target))


def test_extras_are_those_that_the_documentation_names():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/install.md").read_text()
    assert {"experiments", "imagenet", "peers", "dev"} <= set(extras["optional-dependencies"])
    for extra in extras["optional-dependencies"]:
        assert f"`{extra}`" in page, extra
