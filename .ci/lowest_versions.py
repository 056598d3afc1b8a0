"""Prints the lowest version of each direct dependency of pyproject.toml as a pip constraint: `make test-lowest`."""

import re
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[^\]]*\])?>=(?P<version>[0-9][^,;]*)")


def lowest_versions(pyproject: Path) -> list[str]:
    """``NAME==VERSION`` of each requirement with a lower bound, extras included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(one for group in project["optional-dependencies"].values() for one in group),
    ]
    found = [REQUIREMENT.match(requirement) for requirement in requirements]
    return sorted(f"{match['name']}=={match['version']}" for match in found if match)


if __name__ == "__main__":
    print("\n".join(lowest_versions(Path(__file__).parent.parent / "pyproject.toml")))
