"""Checkpoints as files: of Lightning and of the transformers Trainer, whole or sharded, from any machine.

Nothing is unpickled but tensors and primitives.
"""

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_noisy.export.trained_model import TrainedModel, resolve_adapted, resolve_model
from lightning_noisy.hf import NoisyForImageClassification, NoisyImageClassificationConfig
from lightning_noisy.models import adapter_config, adapter_files, base_model_of
from lightning_noisy.models.fingerprint import frozen_fingerprint
from lightning_noisy.models.transformers_models import load_classifier, read_config, source_of
from lightning_noisy.noise.files import NOISE_CONFIG_FILE, NOISE_WEIGHTS_FILE, load_noise_layer
from lightning_noisy.run_record import RECORD_FILE, RunRecord, read_record
from lightning_noisy.training import NoisyImageClassifier
from lightning_noisy.training.callbacks.run_recorder import CLI_CONFIG_KEY, RUN_RECORD_KEY
from lightning_noisy.utils.trusted_names import expect_trusted_names

LIGHTNING_SHARDS = "meta.pt"
"""What Lightning writes beside the shards of FSDP."""
TRAINER_SHARDS = "pytorch_model_fsdp_0"
"""The folder of shards that the transformers Trainer writes under FSDP."""
SHARD_INDEX = ".metadata"
SHARDED_KEYS = ("model", "state_dict")
"""Where the weights are among the shards: of FSDPStrategy and accelerate, of ModelParallelStrategy."""

_SAFE_IN_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
}


def load_checkpoint(path: str | Path, merge: bool = True, base_model: str | None = None) -> TrainedModel:
    """From a checkpoint file of Lightning, a folder of shards, or a folder of a saved model.

    Args:
        path: The file or folder.
        merge: Whether a PEFT adapter is added to the weights; else its layers stay in the clean model.
        base_model: Of a folder that holds an adapter around a noisy model and does not name what lies under it.

    Raises:
        ValueError: If there is nothing there that can be loaded.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return _from_lightning(_read_file(path), path, merge)
    if (path / LIGHTNING_SHARDS).is_file():
        checkpoint = _read_file(path / LIGHTNING_SHARDS)
        return _from_lightning({**checkpoint, "state_dict": _read_shards(path)}, path, merge)
    if (path / "config.json").is_file():
        return _from_saved_model(path, merge, base_model)
    raise ValueError(f"Expected argument `ckpt_path` to be a checkpoint, but {str(path)!r} {_what_is_there(path)}")


def read_run_config(path: str | Path) -> dict[str, Any]:
    """How ``lightning-noisy fit`` was called: ``data``, ``model``, ``trainer``; empty where nothing tells of it.

    Raises:
        ValueError: If the file can't be read, or names classes of other libraries.
    """
    path = Path(path).expanduser()
    path = path / LIGHTNING_SHARDS if path.is_dir() else path
    config = _read_file(path).get(CLI_CONFIG_KEY) or {} if path.is_file() else {}
    expect_trusted_names(config, str(path))
    return config


def _from_lightning(checkpoint: Mapping[str, Any], path: Path, merge: bool) -> TrainedModel:
    hparams = checkpoint.get("hyper_parameters") or {}
    if not hparams.get("backbone") or "state_dict" not in checkpoint:
        raise ValueError(
            f"Expected {str(path)!r} to be a checkpoint of NoisyImageClassifier with a timm or transformers backbone, "
            "but it does not tell its architecture. Load it by your own LightningModule's `load_from_checkpoint` and "
            "give the module instead of the path."
        )
    module = NoisyImageClassifier(**{name: value for name, value in hparams.items() if not name.startswith("_")})
    module.load_state_dict(checkpoint["state_dict"])
    module.loaded_record = RunRecord.from_dict(checkpoint.get(RUN_RECORD_KEY) or {})
    return resolve_model(module, merge)


def _from_saved_model(folder: Path, merge: bool, base_model: str | None) -> TrainedModel:
    config, _ = read_config(str(folder), {})
    if isinstance(config, NoisyImageClassificationConfig):
        if (folder / adapter_files.ADAPTER_CONFIG_FILE).is_file():
            return resolve_adapted(_adapted_model(folder, config, base_model), merge)
        return resolve_model(_noisy_model(folder, config), merge)
    model: Any = load_classifier(str(folder), str(folder), config)
    record = read_record(folder / RECORD_FILE)
    if adapter_config(model) is not None:
        _check_base(model, record, base_model_of(model), folder)
    trained = resolve_model(model, merge)
    trained.record = dataclasses.replace(record, adapter={**trained.record.adapter, **record.adapter})
    if (folder / NOISE_CONFIG_FILE).is_file() and (folder / NOISE_WEIGHTS_FILE).is_file():
        trained.noise_layer = load_noise_layer(folder / NOISE_CONFIG_FILE, folder / NOISE_WEIGHTS_FILE)
    return trained


def _adapted_model(
    folder: Path, config: NoisyImageClassificationConfig, base_model: str | None
) -> NoisyForImageClassification:
    """The noisy model that PEFT was put around, its layers in it, from what the Trainer has saved of it."""
    spec = adapter_files.read_adapter(folder / adapter_files.ADAPTER_CONFIG_FILE)
    base = base_model or adapter_files.base_of(spec, folder / adapter_files.ADAPTER_CONFIG_FILE)
    native: Any = load_classifier(base, source_of(base), config.backbone_config, options={"dtype": config.dtype})
    model: Any = NoisyForImageClassification(config, native)
    adapter_files.load_adapter(model, spec, folder / adapter_files.ADAPTER_WEIGHTS_FILE)
    model.load_companions(folder)
    if model.noise_layer is not None:
        layer = load_noise_layer(folder / NOISE_CONFIG_FILE, folder / NOISE_WEIGHTS_FILE)
        model.noise_layer.load_state_dict(layer.state_dict())
    _check_base(model.backbone, model.run_record, base, folder)
    return model


def _check_base(model: Any, record: RunRecord, base: str | None, folder: Path) -> None:
    if record.adapter.get("base_weights") not in (None, frozen_fingerprint(model)):
        raise ValueError(
            f"Expected {base!r} to be the model under the adapter in {str(folder)!r}, but its weights are others than "
            "in the training, or what was trained beside the adapter was not saved with it, such as a head that is not "
            "in `modules_to_save`. Name the right one as `base_model_name_or_path` in its adapter_config.json, or give "
            "the model itself instead of the path."
        )


def _noisy_model(folder: Path, config: NoisyImageClassificationConfig) -> NoisyForImageClassification:
    if not (folder / TRAINER_SHARDS).is_dir():
        return NoisyForImageClassification.from_pretrained(folder, dtype="auto")
    model = NoisyForImageClassification(config)
    model.load_state_dict(_read_shards(folder / TRAINER_SHARDS))
    model.load_companions(folder)
    return model.eval()


def _read_file(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch, zip and pickle raise kinds of their own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"Expected {str(path)!r} to be a checkpoint of Lightning that holds tensors and primitives only, but it "
            f"can't be read as one: {reason}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"Expected {str(path)!r} to be a checkpoint of Lightning, but it holds no dictionary.")
    return checkpoint


def _read_shards(folder: Path) -> dict[str, Any]:
    """The whole state dict of a sharded checkpoint, without its optimizer."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    _check_index_is_safe(folder / SHARD_INDEX)
    found: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner(keys=set(SHARDED_KEYS))
    _load_state_dict(found, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    for key in SHARDED_KEYS:
        if key in found:
            return found[key]
    raise ValueError(f"Expected the shards in {str(folder)!r} to hold a model, but they hold none.")


class _PlainUnpickler(pickle.Unpickler):
    """Reads the index of a sharded checkpoint, which torch pickles, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _SAFE_IN_INDEX.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _check_index_is_safe(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            _PlainUnpickler(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError) as error:
        raise ValueError(f"Expected {str(path)!r} to be the index of a sharded checkpoint, but {error}.") from error


def _what_is_there(path: Path) -> str:
    if not path.exists():
        return "does not exist."
    inside = sorted(
        [*path.glob("*.ckpt"), *(folder for folder in path.glob("checkpoint-*") if (folder / "config.json").is_file())],
        key=lambda found: found.stat().st_mtime,
    )
    if inside:
        return f"is a folder with checkpoints. Did you mean {str(inside[-1])!r}?"
    if (path / adapter_files.ADAPTER_CONFIG_FILE).is_file():
        return "holds a PEFT adapter without the config.json of the model under it. Give the model instead of the path."
    return "holds neither a checkpoint of Lightning nor a config.json."
