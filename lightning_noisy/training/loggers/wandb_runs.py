"""W&B runs that are never in the way of a training: no question for a key, files where there is no server, one line."""

import os
import secrets
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_noisy.utils.text import relative_path

PROJECT = "lightning-noisy"
"""Where runs go for which neither an argument nor ``WANDB_PROJECT`` names a project."""
RECIPE_VARIABLE = "LIGHTNING_NOISY_RECIPE"
"""The environment variable by which a script around ``lightning-noisy`` says its own name."""
REFUSALS = ("key", "unauthorized", "not logged in", "permission")
"""Words of W&B's errors, which have no kind of their own, when it does not know the key."""
SECONDS_TO_START = 30.0
SECONDS_TO_FINISH = 600.0


def start_run(open_run: Callable[[str | None], Any], mode: str | None = None) -> Any:
    """Starts a run in W&B's own mode where a key is found, else, or where that fails, in files.

    One line says where the run is; a start that failed is one warning.

    Args:
        open_run: Calls ``wandb.init`` with the mode that it is given.
        mode: The mode that was asked for; by default ``WANDB_MODE``, else what the key allows.

    Returns:
        The run, or ``None`` where not even files could be written.
    """
    reason = ""
    for chosen in dict.fromkeys((mode, "offline")):
        try:
            if chosen is None and not _can_ask():
                continue
            run = open_run(chosen)
        except Exception as error:
            reason = reason or (str(error).strip() or type(error).__name__).splitlines()[0]
            _forget_failed_run()
            continue
        _say_where_it_is(run, reason)
        return run
    warnings.warn(f"W&B could not be started and logs nothing in this training ({reason}).", stacklevel=2)
    return None


def run_settings() -> Any:
    """W&B's settings for a run that says nothing itself and does not keep a training waiting."""
    import wandb

    own: dict[str, Any] = {"silent": True, "init_timeout": SECONDS_TO_START, "finish_timeout": SECONDS_TO_FINISH}
    return wandb.Settings(**{name: value for name, value in own.items() if f"WANDB_{name.upper()}" not in os.environ})


def new_run_id() -> str:
    """Eight random hexadecimal digits."""
    return secrets.token_hex(4)


def run_name(recipe: str | None, run_id: str | None) -> str | None:
    """``RECIPE-ID``; ``None``, for W&B's own choice, without a recipe or where ``WANDB_NAME`` is set."""
    return None if not recipe or "WANDB_NAME" in os.environ else "-".join(filter(None, (recipe, run_id)))


def recipe_name(configs: list[str]) -> str | None:
    """``vit_fsdp`` of ``recipes/vit_fsdp.yaml``; several, and the script that started it, are joined by ``+``."""
    names = [os.environ.get(RECIPE_VARIABLE, ""), *(Path(config).stem for config in configs)]
    return "+".join(name for name in names if name) or None


def has_key() -> bool:
    """Whether W&B finds a key, wherever it looks for one; nobody is asked."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    settings = wandb.setup().settings
    return bool(settings.api_key or settings.identity_token_file or _netrc_has_key(settings.base_url))


def _can_ask() -> bool:
    """Whether W&B's own way needs no key or has one: without one it would ask for it, or fail."""
    import wandb

    if wandb.run is not None or os.environ.get("WANDB_MODE") or has_key():
        return True
    return wandb.setup().settings.mode != "online"


def _netrc_has_key(base_url: str) -> bool:
    import wandb
    from requests.utils import get_netrc_auth

    known_as = ["https://api.wandb.ai"] if base_url == wandb.Settings().base_url else []
    return any(get_netrc_auth(url) for url in (base_url, *known_as))


def _forget_failed_run() -> None:
    """W&B's service holds the id of a run that could not start, and would refuse it to the next one."""
    import wandb

    if wandb.run is None:
        with suppress(Exception):
            wandb.teardown()


def _say_where_it_is(run: Any, reason: str) -> None:
    if getattr(run, "disabled", False):
        return
    directory = getattr(getattr(run, "settings", None), "sync_dir", None)
    if not getattr(run, "offline", False) or directory is None:
        url = getattr(run, "url", None)
        if url:
            print(f"W&B: {url}", file=sys.stderr)
        return
    kept = f"the run is kept in files, send it later by `wandb sync {relative_path(directory)}`."
    if not reason:
        print(f"W&B: {kept}", file=sys.stderr)
        return
    is_refused = any(word in reason.lower() for word in REFUSALS)
    what = "W&B refused the key" if is_refused else "W&B could not be reached"
    remedy = " Before that, `wandb login --relogin`." if is_refused else ""
    warnings.warn(f"{what} ({reason}): {kept}{remedy}", stacklevel=3)
