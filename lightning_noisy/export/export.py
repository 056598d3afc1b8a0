"""A clean model as a folder that plain timm or transformers loads, with all that is known of its training."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal, Unpack

from torch import nn

from lightning_noisy import models
from lightning_noisy.export.card import base_on_hub, render_card
from lightning_noisy.export.card_options import CARD_FILE, CardArguments, CardOptions
from lightning_noisy.export.checkpoints import load_checkpoint
from lightning_noisy.export.noise_estimate import estimate_noise
from lightning_noisy.export.trained_model import Source, TrainedModel, resolve_model
from lightning_noisy.matrix_files import COUNTS_FILE, MATRIX_FILE, PICTURE_FILE, write_matrices
from lightning_noisy.models import adapter_files
from lightning_noisy.models.fingerprint import frozen_fingerprint
from lightning_noisy.noise.files import NOISE_CONFIG_FILE, NOISE_WEIGHTS_FILE, save_noise_layer
from lightning_noisy.pictures import draw_training_curves
from lightning_noisy.run_record import RECORD_FILE, write_record

CURVES_FILE = "training_curves.png"
OUR_FILES = (
    CARD_FILE,
    NOISE_CONFIG_FILE,
    NOISE_WEIGHTS_FILE,
    MATRIX_FILE,
    COUNTS_FILE,
    PICTURE_FILE,
    CURVES_FILE,
    RECORD_FILE,
)
"""What lies beside the model; its own files are timm's or transformers'."""
MODEL_FILES = (
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    adapter_files.ADAPTER_CONFIG_FILE,
    adapter_files.ADAPTER_WEIGHTS_FILE,
)
"""Of the model itself, those that not every export has."""


def export_clean(
    model: Source,
    directory: str | Path,
    license: str | None = None,
    *,
    adapter: Literal["merge", "keep"] = "merge",
    overwrite: bool = False,
    repo_id: str | None = None,
    **card: Unpack[CardArguments],
) -> Path:
    """Writes the clean model in its library's own format, its card, and the noise beside it.

    A timm model is read by ``timm.create_model("local-dir:DIR", pretrained=True)`` and by
    ``AutoModelForImageClassification`` with its image processor, a transformers model by the latter. Beside it lie
    ``README.md`` (the model card), ``noise_layer.safetensors`` and ``noise_config.json`` (to train on from),
    ``transition_matrix.csv`` (learned), ``label_counts.csv`` (counted, as shares), both as ``transition_matrix.png``,
    and ``noisy_training.json`` (the record of the training).

    Args:
        model: A model of timm or transformers, with a noise layer or without, a LightningModule with one, or the path
            of a checkpoint: a file of Lightning, a folder of the transformers Trainer, a folder of FSDP shards, from
            any machine.
        directory: Where to write; it must be empty or not exist.
        license: The licence of the weights by the Hub's identifier, for instance ``"apache-2.0"``.
        adapter: Of a model with a PEFT adapter: ``"merge"`` adds it to the weights; ``"keep"`` writes it alone, in
            PEFT's format, beside the name of the model under it, which must be on the Hub.
        overwrite: Whether to replace files in a directory that is not empty; files of other names are left alone.
        repo_id: Where the model will lie on the Hub, for the code on the card.
        **card: What the card says beside the record of the training, as of
            :class:`~lightning_noisy.export.card_options.CardOptions`: ``model_name``, ``description``, ``base_model``,
            ``datasets``, ``metrics``.

    Returns:
        The directory.

    Raises:
        ValueError: If an argument is wrong, there is no such model, or the directory is not empty.
    """
    if adapter not in ("merge", "keep"):
        raise ValueError(f"Expected argument `adapter` to be 'merge' or 'keep', but got {adapter!r}.")
    options = CardOptions(license, repo_id, **card)
    directory = Path(directory).expanduser()
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"Expected argument `directory` to be a folder, but {str(directory)!r} is a file.")
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise ValueError(
            f"Expected argument `directory` to be an empty folder, but {str(directory)!r} is not empty. Name another "
            "one, or replace its files by `overwrite` (`--overwrite`)."
        )
    trained = load_trained_model(model, merge=adapter == "merge", base_model=options.base_model)
    if adapter == "keep" and models.adapter_config(trained.clean_model) is None:
        raise ValueError(
            "Expected argument `adapter` to be 'merge' for a model without an adapter of its own, but got 'keep'."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: what is half-written never bears the name of the directory.
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as folder:
        write_export(trained, Path(folder), options, directory.resolve().name)
        _move_files(Path(folder), directory)
    return directory


def load_trained_model(model: Source, merge: bool = True, base_model: str | None = None) -> TrainedModel:
    """From a module, or from a checkpoint's path; the arguments are those of :func:`load_checkpoint`."""
    if isinstance(model, str | Path):
        return load_checkpoint(model, merge, base_model)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"Expected argument `model` to be a module or the path of a checkpoint, but got {type(model).__name__}."
        )
    return resolve_model(model, merge)


def write_export(trained: TrainedModel, folder: Path, options: CardOptions, folder_name: str) -> None:
    """All files of an export, into an empty folder."""
    names = trained.class_names
    if models.adapter_config(trained.clean_model) is None:
        models.save_backbone(trained.clean_model, folder, names)
    else:
        base = base_on_hub(trained, options)
        adapter_files.save_adapter(trained.clean_model, folder, base)
        models.save_config(trained.clean_model, folder, names)
        trained.record.adapter["base_weights"] = frozen_fingerprint(trained.clean_model)
    _set_license(folder / "config.json", options.license)
    estimate = estimate_noise(trained.noise_layer, trained.record.label_counts, names)
    if trained.noise_layer is not None:
        save_noise_layer(trained.noise_layer, folder)
    if estimate is not None:
        write_matrices(folder, estimate.matrices, names, "Label noise in the training data")
    write_record(trained.record, folder / RECORD_FILE)
    draw_training_curves(folder / CURVES_FILE, trained.record.history)
    card = render_card(trained, options, estimate, folder_name, has_curves=(folder / CURVES_FILE).is_file())
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _set_license(path: Path, license: str | None) -> None:
    """timm's config names the licence of the weights that the training started from."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if "license" in config.get("pretrained_cfg", {}):
        config["pretrained_cfg"]["license"] = license
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _move_files(folder: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    # Of an earlier export, which may have had a noise layer where this one has none, or the other kind of weights.
    for name in (*OUR_FILES, *MODEL_FILES):
        (directory / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.move(path, directory / path.name)
