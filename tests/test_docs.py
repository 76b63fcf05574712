"""The site: every public name is on an API page, every page is linked, tutorials have a figure."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
DIRECTIVE = re.compile(r"\.\. (currentmodule|automodule|auto\w+|py:data):: ([\w.]+)")
NOT_CALLED = {"nmnc_jax": {"diagnostics"}}
"""Names of a module that are pages of their own."""


def documented():
    """Full names of what the API pages hold, and of the modules that they hold whole."""
    names, whole = set(), set()
    for page in DOCS.glob("api/*.md"):
        module = ""
        for directive, name in DIRECTIVE.findall(page.read_text()):
            if directive == "currentmodule":
                module = name
            elif directive == "automodule":
                whole.add(name)
            else:
                names.add(name if name.startswith("nmnc_jax.") else f"{module}.{name}")
    return names, whole


def public(module):
    """Names that a module lists, or the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


@pytest.mark.parametrize("name", ["", "linen", "models", "readouts", "transforms", "diagnostics"])
def test_every_public_name_has_an_entry_in_the_api(name):
    module = importlib.import_module(f"nmnc_jax.{name}".rstrip("."))
    names, whole = documented()
    if module.__name__ in whole:
        return
    at_root = {entry.removeprefix("nmnc_jax.") for entry in names if entry.count(".") == 1}
    missing = {
        each
        for each in public(module) - NOT_CALLED.get(module.__name__, set())
        if f"{module.__name__}.{each}" not in names and each not in at_root
    }
    assert not missing


def test_entries_exist():
    for entry in documented()[0]:
        module, name = entry.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), entry


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = (DOCS.parent / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    for target in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (DOCS.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorials/*.md")), ids=lambda page: page.stem)
def test_tutorials_run_and_draw(page):
    text = page.read_text()
    assert "file_format: mystnb" in text
    assert "plt.show()" in text
