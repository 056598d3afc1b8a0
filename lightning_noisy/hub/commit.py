"""One commit to the Hub, or none."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import get_session

from lightning_noisy._version import __version__

TIMEOUT = 300.0
"""Seconds that the Hub may be silent before a push is given up; by itself the client would wait without end."""

_REASONS = {
    401: "it refuses the token. Log in by `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "the token may not write there. Use a token with write permission, or a repository of your own",
    404: "there is no such repository or branch that the token may see. Check `repo_id`, `revision` and the token",
    409: "another change of the repository is under way. Wait a moment and run the same again",
    412: "the repository was changed meanwhile. Look at it, and run the same again",
    413: "a file is too large for it",
    429: "it was asked too often. Wait some minutes and run the same again",
}


class PushError(RuntimeError):
    """The Hub took nothing; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """Where a commit goes.

    Args:
        repo_id: The repository, made if it does not exist.
        repo_type: ``"model"`` or ``"dataset"``.
        private: Whether a new repository is private. One that is public already is refused.
        revision: The branch, made if it does not exist; ``main`` by default.
        create_pr: Whether to open a pull request instead.
        token: A token with write permission; the one of ``hf auth login`` or ``HF_TOKEN`` by default.
        commit_message: The commit's title.
    """

    repo_id: str
    repo_type: str
    private: bool
    revision: str | None
    create_pr: bool
    token: str | None
    commit_message: str


class Repository:
    """A repository to commit to, as it was when it was opened: a change in between is noticed.

    Attributes:
        repo_id: With its owner.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._api = HfApi(token=target.token, library_name="lightning-noisy", library_version=__version__)
        self.repo_id: str = self._api.create_repo(
            target.repo_id, repo_type=target.repo_type, private=target.private or None, exist_ok=True
        ).repo_id
        self._parent = self._parent_commit()

    def file_names(self) -> list[str]:
        """All files that it has."""
        return self._api.list_repo_files(self.repo_id, repo_type=self._target.repo_type, revision=self._parent)

    def read_text(self, name: str) -> str:
        """The content of one of its files."""
        path = self._api.hf_hub_download(self.repo_id, name, repo_type=self._target.repo_type, revision=self._parent)
        return Path(path).read_text(encoding="utf-8")

    def commit(self, operations: Sequence[CommitOperationAdd | CommitOperationDelete]) -> str:
        """Makes the commit; returns its URL, or the pull request's."""
        # One request: `upload_folder` may retry it and split it.
        commit = self._api.create_commit(
            self.repo_id,
            operations,
            repo_type=self._target.repo_type,
            commit_message=self._target.commit_message,
            revision=self._target.revision,
            create_pr=self._target.create_pr,
            parent_commit=self._parent,
        )
        return commit.pr_url or commit.commit_url

    def _parent_commit(self) -> str | None:
        """The commit to build on; makes the branch where it is missing."""
        target, api = self._target, self._api
        info = api.repo_info(self.repo_id, repo_type=target.repo_type)
        if target.private and not info.private:
            raise PushError(
                f"Nothing was pushed: {self.repo_id!r} is public already, and `private` asks for a private repository. "
                "Change its visibility in its settings, or name another one."
            )
        if target.revision is None:
            return info.sha
        if not target.create_pr:
            api.create_branch(self.repo_id, repo_type=target.repo_type, branch=target.revision, exist_ok=True)
        return api.repo_info(self.repo_id, repo_type=target.repo_type, revision=target.revision).sha


@contextlib.contextmanager
def open_repository(target: Target) -> Iterator[Repository]:
    """The repository, made if it does not exist; what goes wrong with the Hub inside is one sentence.

    Raises:
        PushError: If the Hub refuses or can't be reached.
    """
    with _errors_in_one_sentence(target.repo_id), _with_timeout():
        yield Repository(target)


@contextlib.contextmanager
def _with_timeout() -> Iterator[None]:
    session = get_session()
    before = session.timeout
    session.timeout = before if any(before.as_dict().values()) else TIMEOUT
    try:
        yield
    finally:
        session.timeout = before


@contextlib.contextmanager
def _errors_in_one_sentence(repo_id: str) -> Iterator[None]:
    try:
        yield
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, HTTPError, ConnectionError) as error:
        raise PushError(f"Nothing was pushed to {repo_id!r}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return _REASONS[401].replace("it refuses the token", "there is no token")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it, or look at the files by a dry run"
    if not isinstance(error, HfHubHTTPError):
        what = f"{type(error).__name__}: {error}".rstrip(": .")
        return f"the connection to the Hub broke ({what}). Check it and run the same again"
    status = error.response.status_code
    said = " ".join((error.server_message or "").split())[:300].rstrip(".")
    if status >= 500:
        return f"the Hub is having problems ({status}). Try again later"
    reason = _REASONS.get(status, "it refuses the request. Check the arguments")
    return f"the Hub answers {status}, {reason}" + (f" (the Hub says: {said})" if said else "")
