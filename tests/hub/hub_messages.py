"""What the server of the tests keeps, is asked and answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class HubError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = Answer({"error": message}, status, named)


@dataclass(frozen=True)
class Answer:
    """What is sent back; a body that is not bytes goes as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """A commit with the complete tree after it."""

    oid: str
    message: str
    description: str
    files: Mapping[str, bytes]


@dataclass
class Repo:
    """A repository; a pull request is a branch named `refs/pr/N`."""

    private: bool
    branches: dict[str, list[Commit]]

    def history(self, revision: str) -> list[Commit]:
        """The commits up to a branch's end or up to an oid, the oldest first."""
        if revision in self.branches:
            return self.branches[revision]
        for commits in self.branches.values():
            for place, commit in enumerate(commits, 1):
                if commit.oid == revision:
                    return commits[:place]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Request:
    """A request as it came; `status` stays None where no answer was sent, `body` holds what was read of it."""

    route: str
    method: str
    path: str
    headers: dict[str, str]  # the names in lower case
    params: dict[str, str]  # the parts of the path
    body: bytes = b""
    status: int | None = None

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    @property
    def repo_key(self) -> str:
        """The repository's name in `HubServer.repos`."""
        kind = self.params.get("kind", "models")
        return self.params["id"] if kind == "models" else f"{kind}/{self.params['id']}"


@dataclass
class Fault:
    """What goes wrong the next `times` times that the route is asked."""

    route: str
    times: float = 1
    seconds: float = 0.0  # waited for before the body is read
    reads: int | None = None  # bytes read of the request's body; None: all
    runs: bool = True  # whether the request takes effect and is answered
    answer: Answer | None = None  # sent instead of the true one
    sends: int | None = None  # bytes sent of the answer's body; None: all; 0: not even the head
