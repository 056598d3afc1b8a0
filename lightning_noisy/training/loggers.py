"""Loggers: W&B that starts offline where there is no key and never ends a training; pictures and tables for each."""

import netrc
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

STEP = "trainer/global_step"
"""Lightning's name for the step in W&B."""
REFUSALS = ("key", "unauthorized", "not logged in", "permission")
"""Words of W&B's errors, which have no kind of their own, when it does not know the key."""
SECONDS_TO_START = 30.0
SECONDS_TO_FINISH = 600.0


class NoisyWandbLogger(WandbLogger):
    """Lightning's :class:`~lightning.pytorch.loggers.WandbLogger` that a training can rely on.

    - Where no key is found (``WANDB_API_KEY``, ``wandb login``) and ``WANDB_MODE`` does not say otherwise, the run is
      kept in files, and one line says how to send it later.
    - An error of W&B, at the start or later, is one warning; when the start fails, or the key is refused, the run is
      kept in files. W&B gets 30 seconds to start and 600 to finish (``WANDB_INIT_TIMEOUT``, ``WANDB_FINISH_TIMEOUT``).
    - A training that goes on from a checkpoint goes on in its run, and what the run has already is not logged again.

    Args:
        args, kwargs: As of :class:`~lightning.pytorch.loggers.WandbLogger`.

    Raises:
        ModuleNotFoundError: If wandb is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _check_wandb_is_installed()
        super().__init__(*args, **kwargs)
        if self._offline:  # said to wandb.init alone: Lightning would say it to the whole process by WANDB_MODE
            self._offline = False
            self._wandb_init["mode"] = "offline"
        if self._wandb_init.get("anonymous") is None:
            self._wandb_init.pop("anonymous", None)  # W&B warns of it
        self._keeps_its_id = bool(self._id or os.environ.get("WANDB_RUN_ID"))
        self._is_held = False
        self._is_off = False
        self._has_warned = False
        self._resumed_steps: dict[str, int] = {}
        self._last_steps: dict[str, int] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first call."""
        if self._experiment is None and not self._is_held and not self._is_off:
            self._start()
        return DummyExperiment() if self._experiment is None else self._experiment

    def hold(self) -> None:
        """Does not start the run before :meth:`release`, so that a checkpoint can tell which run to go on with."""
        self._resumed_steps = {}
        if self._experiment is not None or self._is_held:
            return
        self._is_held = True
        if not self._keeps_its_id:
            self._set_id(secrets.token_hex(4))  # a ModelCheckpoint asks for it before the run starts

    def release(self, run_state: Mapping[str, Any] | None = None) -> None:
        """Starts the run; with the :meth:`run_state` of a checkpoint it goes on in that run."""
        if run_state and run_state["id"] and self._experiment is None and not self._keeps_its_id:
            self._set_id(run_state["id"])
            self._resumed_steps = dict(run_state["last_steps"])
            self._last_steps = dict(run_state["last_steps"])
        self._is_held = False
        _ = self.experiment

    def run_state(self) -> dict[str, Any]:
        """Primitives for a checkpoint: the run's id and the last step of each metric."""
        return {"id": self.version, "last_steps": dict(self._last_steps)}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        fresh = {name: value for name, value in metrics.items() if self._is_fresh(name, step)}
        if not fresh or set(fresh) == {"epoch"}:
            return
        with self._errors_as_warning():
            super().log_metrics(fresh, step)
            if step is not None:
                self._last_steps.update(dict.fromkeys(fresh, step))

    def log_hyperparams(self, params: Any) -> None:
        with self._errors_as_warning():
            super().log_hyperparams(params)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        with self._errors_as_warning():
            super().log_image(key, images, step, **kwargs)

    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        with self._errors_as_warning():
            super().log_table(key, *args, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        with self._errors_as_warning():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        with self._errors_as_warning():
            super().finalize(status)

    def _is_fresh(self, name: str, step: int | None) -> bool:
        return step is None or step > self._resumed_steps.get(name, -1)

    def _set_id(self, run_id: str) -> None:
        self._id = self._wandb_init["id"] = run_id

    def _start(self) -> None:
        """W&B's own way first, then in files; without W&B where even those can't be written."""
        reason = ""
        own_mode = self._wandb_init.get("mode")
        for mode in dict.fromkeys((own_mode, "offline")):
            self._wandb_init["mode"] = mode
            try:
                if mode is None and not _can_ask_wandb():
                    continue
                self._limit_waiting()
                _ = super().experiment
                break
            except Exception as error:
                reason = reason or (str(error).strip() or type(error).__name__).splitlines()[0]
                _forget_failed_run()
        if self._experiment is None:
            self._is_off = self._has_warned = True
            rank_zero_warn(f"W&B could not be started and logs nothing in this training ({reason}).")
            return
        self._say_where_it_lies(own_mode, reason)
        self._skip_what_the_server_has()

    def _limit_waiting(self) -> None:
        if self._wandb_init.get("settings") is not None:  # the command line gives every option, this one as None
            return
        import wandb

        limits = {"init_timeout": SECONDS_TO_START, "finish_timeout": SECONDS_TO_FINISH}
        own = {name: seconds for name, seconds in limits.items() if f"WANDB_{name.upper()}" not in os.environ}
        self._wandb_init["settings"] = wandb.Settings(**own)  # type: ignore[arg-type]

    def _say_where_it_lies(self, own_mode: str | None, reason: str) -> None:
        if self._wandb_init["mode"] == own_mode:
            return
        if self._log_model:
            self._log_model = False
            rank_zero_warn("`log_model` is off: checkpoints can't be uploaded while the W&B run is offline.")
        directory = getattr(getattr(self._experiment, "settings", None), "sync_dir", None) or self.save_dir
        kept = f"the run is kept in files, send it later by `wandb sync {_relative(directory)}`."
        if reason:
            is_refused = any(word in reason.lower() for word in REFUSALS)
            what = "W&B refused the key" if is_refused else "W&B could not be reached"
            remedy = " Before that, `wandb login --relogin`." if is_refused else ""
            rank_zero_warn(f"{what} ({reason}): {kept}{remedy}")
        else:
            rank_zero_info(f"No W&B key was found (`wandb login`): {kept}")

    def _skip_what_the_server_has(self) -> None:
        """A run that broke off after its last checkpoint has steps that this training will do again."""
        with self._errors_as_warning():
            run: Any = self._experiment
            if getattr(run, "resumed", False) is True:
                summary = dict(run.summary)
                step = int(summary.get(STEP, -1))
                self._resumed_steps |= {name: max(step, self._resumed_steps.get(name, -1)) for name in summary}

    @contextmanager
    def _errors_as_warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                rank_zero_warn(f"W&B could not log, the training goes on without ({type(error).__name__}: {error}).")


def log_picture(logger: Logger, name: str, pixels: np.ndarray, step: int) -> None:
    """Gives (H, W, 3) uint8 pixels to a logger that takes pictures."""
    with _never_fatal(name):
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels], step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")


def log_table(
    logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
) -> None:
    """Gives a table to a logger that takes tables."""
    with _never_fatal(name):
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)


def takes_pictures(logger: Logger) -> bool:
    """Whether :func:`log_picture` does anything with it."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


@rank_zero_only
def hold_wandb_runs(loggers: Sequence[Logger]) -> None:
    """Lightning starts the loggers before it reads the checkpoint that tells which run to go on with."""
    for logger in loggers:
        if isinstance(logger, NoisyWandbLogger):
            logger.hold()


@contextmanager
def _never_fatal(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{name!r} could not be logged ({type(error).__name__}: {error}).")


def _check_wandb_is_installed() -> None:
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The W&B logger needs the package wandb. Install it by `pip install 'lightning-noisy[wandb]'`, or take "
            "another logger."
        ) from error


def _forget_failed_run() -> None:
    """W&B's service holds the id of a run that could not start, and would refuse it to the next one."""
    import wandb

    if wandb.run is None:
        with suppress(Exception):
            wandb.teardown()


def _can_ask_wandb() -> bool:
    """Whether W&B's own way needs no key or has one: without one it would ask for it, or fail."""
    import wandb

    if wandb.run is not None or os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return True
    settings = wandb.setup().settings
    has_key = settings.api_key or settings.identity_token_file or _netrc_has_key(settings.base_url)
    return settings.mode != "online" or bool(has_key)


def _netrc_has_key(base_url: str) -> bool:
    import wandb

    hosts = [urlsplit(base_url).netloc]
    if base_url == wandb.Settings().base_url:
        hosts.append("api.wandb.ai")
    given = os.environ.get("NETRC")
    places = [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for place in places:
        try:
            known = netrc.netrc(place.expanduser())
        except (OSError, netrc.NetrcParseError):
            continue
        return any(known.authenticators(host) for host in hosts)
    return False


def _relative(directory: str | Path | None) -> str:
    path = Path(directory or ".")
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
