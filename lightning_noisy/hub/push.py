"""The push to the Hub: one commit, or none."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import get_session

from lightning_noisy import __version__
from lightning_noisy.hub.card import CardOptions
from lightning_noisy.hub.checkpoints import is_saved_export
from lightning_noisy.hub.export import CARD_FILE, card_options, load_trained_model, write_export
from lightning_noisy.hub.trained_model import Source

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
class _Target:
    repo_id: str
    private: bool
    revision: str | None
    create_pr: bool
    token: str | None
    commit_message: str
    overwrite_card: bool


@dataclass(frozen=True)
class PushReport:
    """What was pushed, or would be.

    Args:
        repo_id: The repository, with its owner.
        files: The size in bytes of each file of the commit.
        card: The text of the README in the commit; ``None`` where the repository keeps its own.
        url: Of the commit or the pull request; ``None`` after a dry run.
    """

    repo_id: str
    files: dict[str, int]
    card: str | None
    url: str | None


def push_clean(
    model: Source,
    repo_id: str,
    license: str | None = None,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
    overwrite_card: bool = False,
    dry_run: bool = False,
    model_name: str | None = None,
    description: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> PushReport:
    """Exports a clean model as :func:`export_clean` does and pushes it in one commit.

    If it fails, the repository is as it was (at most new and empty), and the same call can be repeated. A folder that
    :func:`export_clean` wrote is pushed as it is, with the card as it was edited.

    Args:
        model: As of :func:`export_clean`.
        repo_id: The repository on the Hub, made if it does not exist.
        license: The licence of the weights by the Hub's identifier.
        private: Whether a new repository is private. One that is public already is refused.
        revision: The branch, made if it does not exist; ``main`` by default.
        create_pr: Whether to open a pull request instead.
        token: A token with write permission; the one of ``hf auth login`` or ``HF_TOKEN`` by default.
        commit_message: The commit's title.
        overwrite_card: Whether to replace a README that is in the repository already.
        dry_run: Whether to only say what would be pushed; nothing is sent.
        model_name: As of :func:`export_clean`.
        description: As of :func:`export_clean`.
        base_model: As of :func:`export_clean`.
        datasets: As of :func:`export_clean`.
        metrics: As of :func:`export_clean`.

    Raises:
        ValueError: If an argument is wrong or there is no such model.
        PushError: If the Hub refuses or can't be reached.
    """
    options = card_options(license, repo_id, model_name, description, base_model, datasets, metrics)
    message = commit_message or f"Clean image classifier, trained by lightning-noisy {__version__}"
    target = _Target(repo_id, private, revision, create_pr, token, message, overwrite_card)
    if isinstance(model, str | Path) and is_saved_export(model):
        folder = Path(model).expanduser()
        _check_same_license(folder, options)
        return _push_folder(folder, target, dry_run)
    with tempfile.TemporaryDirectory(prefix="lightning-noisy-") as temporary:
        write_export(load_trained_model(model), Path(temporary), options, repo_id)
        return _push_folder(Path(temporary), target, dry_run)


def _push_folder(folder: Path, target: _Target, dry_run: bool) -> PushReport:
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_private(path.relative_to(folder))
    }
    repo_id, url = target.repo_id, None
    if not dry_run:
        with _errors_in_one_sentence(target.repo_id), _with_timeout():
            api = HfApi(token=target.token, library_name="lightning-noisy", library_version=__version__)
            repo_id = api.create_repo(target.repo_id, private=target.private or None, exist_ok=True).repo_id
            parent = _parent_commit(api, repo_id, target)
            if not target.overwrite_card and api.file_exists(repo_id, CARD_FILE, revision=parent):
                del files[CARD_FILE]
            # One request: `upload_folder` may retry it and split it.
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, path) for name, path in files.items()],
                commit_message=target.commit_message,
                revision=target.revision,
                create_pr=target.create_pr,
                parent_commit=parent,
            )
            url = commit.pr_url or commit.commit_url
    card = files[CARD_FILE].read_text(encoding="utf-8") if CARD_FILE in files else None
    return PushReport(repo_id, {name: path.stat().st_size for name, path in files.items()}, card, url)


def _is_private(path: Path) -> bool:
    """Hidden files, and those of a training: they hold more than the model, and some are pickles."""
    return any(part.startswith(".") for part in path.parts) or path.suffix in (".ckpt", ".pt", ".pth", ".bin")


def _parent_commit(api: HfApi, repo_id: str, target: _Target) -> str | None:
    """The commit to build on, so that a change in between is noticed; makes the branch where it is missing."""
    info = api.repo_info(repo_id)
    if target.private and not info.private:
        raise PushError(
            f"Nothing was pushed: {repo_id!r} is public already, and `private` asks for a private repository. Change "
            "its visibility in its settings, or name another one."
        )
    if target.revision is None:
        return info.sha
    if not target.create_pr:
        api.create_branch(repo_id, branch=target.revision, exist_ok=True)
    return api.repo_info(repo_id, revision=target.revision).sha


def _check_same_license(folder: Path, options: CardOptions) -> None:
    try:
        found = ModelCard.load(folder / CARD_FILE).data.license
    except Exception as error:  # YAML raises many kinds
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Expected {str(folder / CARD_FILE)!r} to begin with YAML between two lines of dashes, but {reason}"
        ) from error
    if found != options.license:
        raise ValueError(
            f"Expected argument `license` to be that of the card in {str(folder)!r}, {found!r}, but got "
            f"{options.license!r}. Export again with the licence that you mean, or change the card."
        )


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
        return f"the Hub has a trouble of its own ({status}). Run the same again later"
    reason = _REASONS.get(status, "it refuses the request. Check the arguments")
    return f"the Hub answers {status}, {reason}" + (f" (the Hub says: {said})" if said else "")
