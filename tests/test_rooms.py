"""The rooms of the package: imports run one way, and each room knows only what it may."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_noisy"
ROOMS = (
    "_version", "utils", "noise", "image_batch", "pictures", "matrix_files", "run_record", "run_summary", "models",
    "data", "streaming", "training", "hf", "inference", "features", "export", "hub", "audit", "first_look", "cli",
)  # fmt: skip
"""In this order: a room imports those before it, never one after it."""


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, for the type checker's sake too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def module_of(name: str) -> str | None:
    """The module of this package in which a name is."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[:end])
    return None


def all_imports() -> dict[str, set[str]]:
    """Of each module, without the name of the package: the modules of the package that it imports."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        own = {module_of(name) for name in imports_of(path) if name.split(".")[0] == "lightning_noisy"}
        graph[module] = {name for name in own if name} - {module}
    return graph


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_no_room_imports_one_that_comes_after_it():
    wrong = [
        f"{module} imports {imported}"
        for module, found in all_imports().items()
        for imported in found
        if module != "lightning_noisy" and imported != "lightning_noisy"
        if ROOMS.index(room_of(imported)) > ROOMS.index(room_of(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle():
    graph = all_imports()
    try:
        in_order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"These modules import each other: {' -> '.join(error.args[1])}")
    assert len(in_order) > 150 and set(graph) <= set(in_order), "all modules were read"


def test_nothing_imports_the_package_as_a_whole():
    assert not [module for module, found in all_imports().items() if "lightning_noisy" in found]


def test_every_room_has_its_place():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert names == {*ROOMS, "__init__"}


def test_a_training_knows_nothing_of_data_sets():
    for module, found in all_imports().items():
        if room_of(module + ".") in ("training", "hf"):
            assert not {name for name in found if room_of(name) in ("data", "streaming")}, module


@pytest.mark.parametrize(
    ("room", "libraries"),
    [
        ("noise", {"torch", "numpy", "safetensors"}),
        ("utils", {"pyarrow", "lightning"}),
        ("hub", {"huggingface_hub", "rich"}),
        ("models", {"torch", "timm", "transformers", "safetensors", "peft", "huggingface_hub", "numpy", "lightning"}),
    ],
)
def test_a_room_needs_no_other_libraries(room, libraries):
    for path in (PACKAGE / room).rglob("*.py"):
        found = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"lightning_noisy"}
        assert found <= libraries, f"{path.relative_to(PACKAGE)} imports {found - libraries}"
