"""What is imported is declared, and what is declared has bounds."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHER_NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}
OTHER_NAMES |= {"markdown_it": "markdown-it-py"}
OPTIONAL = {"peft", "tensorboard", "requests"}
"""What is imported where the user has it or has asked for it, and what wandb brings for us to ask it for a key."""


def declared(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {Requirement(line).name.lower() for line in lines}


def imported(folder: str) -> dict[str, str]:
    """Packages of others, each with a file that imports it."""
    files = list((ROOT / folder).rglob("*.py"))
    ours = {
        "lightning_noisy",
        "tests",
        "lowest_versions",
        *(path.stem for path in files),
        *(path.parent.name for path in files),
    }
    found: dict[str, str] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            for name in {name.partition(".")[0] for name in names} - ours - set(sys.stdlib_module_names):
                found[name] = str(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("lightning_noisy", ()), ("recipes", ()), ("benchmarks", ("benchmark",)), ("tests", ("test", "benchmark"))],
)
def test_what_is_imported_is_declared(folder, extras):
    known = declared(*extras) | OPTIONAL
    unknown = {name: file for name, file in imported(folder).items() if OTHER_NAMES.get(name, name) not in known}
    assert not unknown


def test_nothing_is_declared_in_vain():
    used = {OTHER_NAMES.get(name, name) for name in imported("lightning_noisy")}
    indirect = {
        "fsspec",
        "pillow",
        "torchvision",
        "accelerate",
        "safetensors",
    }  # at least one import each, or its extra
    assert declared() - used - indirect == set()


def test_each_dependency_has_a_lower_bound_and_the_lowest_versions_are_constraints():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        from lowest_versions import lowest_versions
    finally:
        sys.path.remove(str(ROOT / ".ci"))
    lowest = lowest_versions(ROOT / "pyproject.toml")
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9][0-9.]*", line) for line in lowest)
    names = {line.partition("==")[0] for line in lowest}
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        assert requirement.name in names
        version = next(entry.partition("==")[2] for entry in lowest if entry.startswith(f"{requirement.name}=="))
        assert version in requirement.specifier
