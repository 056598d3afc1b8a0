"""Checkpoints as files: of Lightning and of the transformers Trainer, whole or sharded, from any machine.

Nothing is unpickled but tensors and primitives.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_noisy.backbones.transformers_models import load_classifier, read_config
from lightning_noisy.hf import NoisyForImageClassification, NoisyImageClassificationConfig
from lightning_noisy.hub.trained_model import TrainedModel, class_names_of, resolve_model
from lightning_noisy.noise.files import CONFIG_FILE, WEIGHTS_FILE, load_noise_layer
from lightning_noisy.run_record import RECORD_FILE, RunRecord, read_record
from lightning_noisy.training import NoisyImageClassifier
from lightning_noisy.training.record import CHECKPOINT_KEY, CONFIG_KEY
from lightning_noisy.trusted_names import expect_trusted_names

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


def load_checkpoint(path: str | Path) -> TrainedModel:
    """From a checkpoint file of Lightning, a folder of shards, or a folder of a saved model.

    Raises:
        ValueError: If there is nothing there that can be loaded.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return _from_lightning(_read_file(path), path)
    if (path / LIGHTNING_SHARDS).is_file():
        checkpoint = _read_file(path / LIGHTNING_SHARDS)
        return _from_lightning({**checkpoint, "state_dict": _read_shards(path)}, path)
    if (path / "config.json").is_file():
        return _from_saved_model(path)
    raise ValueError(f"Expected argument `ckpt_path` to be a checkpoint, but {str(path)!r} {_what_is_there(path)}")


def read_run_config(path: str | Path) -> dict[str, Any]:
    """How ``lightning-noisy fit`` was called: ``data``, ``model``, ``trainer``; empty where nothing tells of it.

    Raises:
        ValueError: If the file can't be read, or names classes of other libraries.
    """
    path = Path(path).expanduser()
    path = path / LIGHTNING_SHARDS if path.is_dir() else path
    config = _read_file(path).get(CONFIG_KEY) or {} if path.is_file() else {}
    expect_trusted_names(config, str(path))
    return config


def _from_lightning(checkpoint: Mapping[str, Any], path: Path) -> TrainedModel:
    hparams = checkpoint.get("hyper_parameters") or {}
    if not hparams.get("backbone") or "state_dict" not in checkpoint:
        raise ValueError(
            f"Expected {str(path)!r} to be a checkpoint of NoisyImageClassifier with a timm or transformers backbone, "
            "but it does not tell its architecture. Load it by your own LightningModule's `load_from_checkpoint` and "
            "give the module instead of the path."
        )
    module = NoisyImageClassifier(**{name: value for name, value in hparams.items() if not name.startswith("_")})
    module.load_state_dict(checkpoint["state_dict"])
    trained = resolve_model(module)
    trained.record = RunRecord.from_dict(checkpoint.get(CHECKPOINT_KEY) or {})
    return trained


def _from_saved_model(folder: Path) -> TrainedModel:
    config, _ = read_config(str(folder), {})
    if isinstance(config, NoisyImageClassificationConfig):
        return resolve_model(_noisy_model(folder, config))
    model: Any = load_classifier(str(folder), str(folder), config)
    trained = TrainedModel(model.eval(), class_names_of(model), record=read_record(folder / RECORD_FILE))
    if (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        trained.noise_layer = load_noise_layer(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    return trained


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
    return "holds neither a checkpoint of Lightning nor a config.json."
