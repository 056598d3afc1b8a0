"""The push to the Hub: one commit, or none."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from huggingface_hub import CommitOperationAdd, ModelCard

from lightning_noisy._version import __version__
from lightning_noisy.export.card_options import CARD_FILE, CardArguments, CardOptions, is_saved_export
from lightning_noisy.hub.commit import Target, open_repository

if TYPE_CHECKING:
    from lightning_noisy.export.trained_model import Source


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
    model: "Source",
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
    **card: Unpack[CardArguments],
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
        **card: As of :func:`export_clean`.

    Raises:
        ValueError: If an argument is wrong or there is no such model.
        PushError: If the Hub refuses or can't be reached.
    """
    options = CardOptions(license, repo_id, **card)
    message = commit_message or f"Clean image classifier, trained by lightning-noisy {__version__}"
    target = Target(repo_id, "model", private, revision, create_pr, token, message)
    if isinstance(model, str | Path) and is_saved_export(model):
        folder = Path(model).expanduser()
        _check_same_license(folder, options)
        return _push_folder(folder, target, overwrite_card, dry_run)
    from lightning_noisy.export.export import load_trained_model, write_export  # a folder is pushed without

    with tempfile.TemporaryDirectory(prefix="lightning-noisy-") as temporary:
        write_export(load_trained_model(model), Path(temporary), options, repo_id)
        return _push_folder(Path(temporary), target, overwrite_card, dry_run)


def _push_folder(folder: Path, target: Target, overwrite_card: bool, dry_run: bool) -> PushReport:
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_private(path.relative_to(folder))
    }
    repo_id, url = target.repo_id, None
    if not dry_run:
        with open_repository(target) as repository:
            repo_id = repository.repo_id
            if not overwrite_card and CARD_FILE in repository.file_names():
                del files[CARD_FILE]
            url = repository.commit([CommitOperationAdd(name, path) for name, path in files.items()])
    card = files[CARD_FILE].read_text(encoding="utf-8") if CARD_FILE in files else None
    return PushReport(repo_id, {name: path.stat().st_size for name, path in files.items()}, card, url)


def _is_private(path: Path) -> bool:
    """Hidden files, and those of a training: they hold more than the model, and some are pickles."""
    return any(part.startswith(".") for part in path.parts) or path.suffix in (".ckpt", ".pt", ".pth", ".bin")


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
