"""What a checkpoint keeps of how its fit was called."""

from collections.abc import Mapping
from typing import Any

OF_THE_TRAINING = (
    "max_epochs", "max_steps", "min_epochs", "min_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm",
    "accumulate_grad_batches", "limit_train_batches", "deterministic", "enable_progress_bar",
)  # fmt: skip
"""Options of the Trainer that a fold is trained by as the fit was."""


def kept_config(called: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit needs to know of how a fit was called: primitives for its checkpoints, no loggers."""
    trainer = {name: value for name, value in called["trainer"].items() if name in OF_THE_TRAINING}
    callbacks = called["trainer"].get("callbacks")
    # Those that need a logger or write checkpoints elsewhere are of no use to a fold; others may hold secrets.
    trainer["callbacks"] = [
        callback
        for callback in (callbacks if isinstance(callbacks, list) else [])
        if callback["class_path"].startswith(("lightning.pytorch.callbacks.", "lightning_noisy."))
        and not any(word in callback["class_path"] for word in ("Checkpoint", "LearningRateMonitor"))
    ]
    return {
        "seed_everything": called.get("seed_everything"),
        "trainer": trainer,
        "model": called["model"],
        "data": called["data"],
    }
