"""The clean model as an artifact of a W&B run, with the data set that it was trained on."""

import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_noisy.noise.counting import disagreement_rate, triples_to_counts
from lightning_noisy.run_record import RunRecord
from lightning_noisy.training.callbacks.run_recorder import describe_run


def log_model_artifacts(trainer: L.Trainer, pl_module: Any, directory: Path) -> None:
    """Gives the files in ``directory`` to each W&B run as a ``model`` artifact that names the data it was trained on.

    The ``dataset`` artifact holds a description alone: name, numbers of images, class names. An error is a warning.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers:
        return
    record = describe_run(trainer, pl_module)
    data = _describe_dataset(trainer, record)
    for logger in loggers:
        if getattr(logger.experiment, "disabled", False):
            continue
        try:
            _log_artifacts(logger.experiment, directory, _describe_model(pl_module, record), data)
        except Exception as error:
            rank_zero_warn(f"The clean model could not be given to W&B ({type(error).__name__}: {error}).")


def _log_artifacts(run: Any, directory: Path, model: dict[str, Any], data: dict[str, Any]) -> None:
    import wandb

    if data:
        dataset = wandb.Artifact(_artifact_name(data["name"]), type="dataset", metadata=data)
        with dataset.new_file("data.json") as file:  # W&B takes no artifact without a file
            json.dump(data, file, indent=1)
        model = {**model, "dataset": dataset.name}
        _use_artifact(run, dataset)
    artifact = wandb.Artifact("clean_model", type="model", metadata=model)
    for path in sorted(directory.rglob("*")):
        if path.is_file():  # as it lies there: W&B would copy a large model into the home directory first, twice
            artifact.add_file(str(path), path.relative_to(directory).as_posix(), skip_cache=True, policy="immutable")
    run.log_artifact(artifact)


def _use_artifact(run: Any, dataset: Any) -> None:
    """Names the data set as an input of the run."""
    # `use_artifact` refuses offline and waits for the upload online; what it calls itself does neither.
    log_artifact = getattr(run, "_log_artifact", None)
    if log_artifact is None:
        run.log_artifact(dataset)
    else:
        log_artifact(dataset, is_user_created=True, use_after_commit=True)


def _describe_model(pl_module: Any, record: RunRecord) -> dict[str, Any]:
    described = {
        "class_names": list(pl_module.class_names),
        "base_model": (pl_module.hparams.get("backbone") or {}).get("base_model"),
        "epochs": record.epochs,
        "metrics": record.metrics,
    }
    if record.label_counts:
        counts = triples_to_counts(record.label_counts, pl_module.num_classes)
        described["estimated_noise_rate"] = float(disagreement_rate(counts))
    return described


def _describe_dataset(trainer: Any, record: RunRecord) -> dict[str, Any]:
    if not record.data.get("name"):
        return {}
    datamodule = trainer.datamodule
    described = {**record.data, "class_names": list(datamodule.class_names)}
    if datamodule.class_counts is not None:
        counts = dict(zip(datamodule.class_names, datamodule.class_counts.tolist(), strict=True))
        described["train_images_of_class"] = counts
    return described


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII) or "data"
