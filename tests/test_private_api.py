"""Every private name of another library that the package relies on, and where an upgrade may take it away."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_noisy"
LISTED = {
    ("_BatchNorm", "torch.nn.modules.batchnorm"): "the batch norms of all dimensions, which sharding leaves whole",
    ("_apply", "torch.nn.Module"): "the noise layer stays in float32 when its model is cast",
    ("_load_from_state_dict", "torch.nn.Module"): "layers of older checkpoints are read",
    ("_compiled_call_impl", "torch.nn.Module"): "a backbone is compiled once",
    ("_orig_mod", "torch._dynamo.eval_frame"): "the module that torch.compile has been put around",
    ("_EmptyStateDictLoadPlanner", "torch.distributed.checkpoint.default_planner"): "shards are read without a model",
    ("_load_state_dict", "torch.distributed.checkpoint.state_dict_loader"): "shards are read without a process group",
    ("_StorageInfo", "torch.distributed.checkpoint.filesystem"): "may be in the index of shards, no other class may",
    ("_get_layout", "torch.serialization"): "may be in the index of shards",
    ("_average_model", "lightning.pytorch.callbacks.WeightAveraging"): "the averaged weights get the layer that counts",
    ("_trainer", "lightning.pytorch.LightningModule"): "whether a module has a Trainer, without the error of `trainer`",
    ("_data_parallel_size", "lightning.pytorch.strategies.ModelParallelStrategy"): "all processes share the weights",
    ("_parse_ckpt_path", "lightning.pytorch.cli.LightningCLI"): "the command line says what the model is",
    ("_run_subcommand", "lightning.pytorch.cli.LightningCLI"): "the other processes end with the first",
    ("_check_log_dir_exists", "lightning.fabric.loggers.csv_logs._ExperimentWriter"): "a log survives a resume",
    ("_rewrite_with_new_header", "lightning.fabric.loggers.csv_logs._ExperimentWriter"): "without an unfinished row",
    ("_experiment", "lightning.pytorch.loggers.CSVLogger"): "the writer of the log",
    ("_experiment", "lightning.pytorch.loggers.WandbLogger"): "the run, started within a time limit",
    ("_id", "lightning.pytorch.loggers.WandbLogger"): "one run over resumes",
    ("_log_model", "lightning.pytorch.loggers.WandbLogger"): "an upload that fails ends no training",
    ("_offline", "lightning.pytorch.loggers.WandbLogger"): "files where there is no key",
    ("_wandb_init", "lightning.pytorch.loggers.WandbLogger"): "how the run is started",
    ("_log_artifact", "wandb.sdk.wandb_run.Run"): "a data set as input of an offline run; without it, as output",
    ("_attn_implementation", "transformers.PreTrainedConfig"): "the backbone's attention is the model's",
    ("_init_weights", "transformers.PreTrainedModel"): "a new noise layer starts as its config says",
    ("_keep_in_fp32_modules_strict", "transformers.PreTrainedModel"): "the noise layer stays in float32",
    ("_no_split_modules", "transformers.PreTrainedModel"): "blocks that FSDP wraps whole",
    ("_set_gradient_checkpointing", "transformers.PreTrainedModel"): "goes to the backbone",
    ("_supports_attention_backend", "transformers.PreTrainedModel"): "what the backbone can, the model can",
    ("_supports_flash_attn", "transformers.PreTrainedModel"): "what the backbone can, the model can",
    ("_supports_flex_attn", "transformers.PreTrainedModel"): "what the backbone can, the model can",
    ("_supports_sdpa", "transformers.PreTrainedModel"): "what the backbone can, the model can",
    ("_name_or_path", "transformers.PreTrainedConfig"): "a path of this machine, left out of checkpoints",
    ("_raise_exceptions_for_connection_errors", "transformers.utils.hub"): "a file that may be missing",
    ("_raise_exceptions_for_gated_repo", "transformers.utils.hub"): "a file that may be missing",
    ("_raise_exceptions_for_missing_entries", "transformers.utils.hub"): "a file that may be missing",
    ("_hub", "timm.models"): "the config that timm writes into a folder",
    ("_model_args", "timm.models._factory"): "the arguments that a timm model was built with",
}  # fmt: skip
"""(the name, where it comes from): what it is needed for."""
OF_THE_LANGUAGE = {"_asdict", "_replace", "_exit", "_abc_impl", "_is_protocol"}


def found(path):
    """A module, or what one holds."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(found(module), name)


def source_of(thing):
    return (
        Path(thing.__path__[0], "__init__.py").read_text() if hasattr(thing, "__path__") else inspect.getsource(thing)
    )


@pytest.mark.parametrize(("name", "where"), LISTED, ids=lambda part: str(part))
def test_it_is_still_there(name, where):
    thing = found(where)
    is_there = hasattr(thing, name) or re.search(rf"\b{name}\b", source_of(thing))
    assert is_there, (
        f"{where} has no {name!r} any more, which this package needs: {LISTED[name, where]}. Find its successor, or "
        "cap the version in pyproject.toml."
    )


def is_private(name):
    return bool(re.fullmatch(r"_[a-zA-Z]\w*", name))


def names_used():
    """Private names in the code of the package that it does not define itself."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.target.attr for node in nodes if isinstance(node, ast.AnnAssign) and hasattr(node.target, "attr")}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - own
    used |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.module.startswith("lightning_noisy"):
            used |= {name.name for name in node.names} | set(node.module.split("."))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            used |= {argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
    return {name for name in used if is_private(name)} - {"_noisy_data_config"}


def names_overridden():
    """Private names of other libraries' classes that classes of the package have, or set, too."""
    overridden = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__:
                continue
            own = {*vars(kind), *re.findall(r"self\.(\w+)", inspect.getsource(kind))}
            bases = [base for base in kind.__mro__ if not base.__module__.startswith(("lightning_noisy", "builtins"))]
            for name in filter(is_private, own):
                if any(name in vars(base) or re.search(rf"\bself\.{name}\b", source(base)) for base in bases):
                    overridden.add(name)
    return overridden


@functools.cache
def source(kind):
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # written in C
        return ""


def test_no_other_private_name_is_used():
    listed = {name for name, _ in LISTED} | OF_THE_LANGUAGE
    unlisted = (names_used() | names_overridden()) - listed
    assert not unlisted, f"Use a public name instead of {sorted(unlisted)}, or list it here with its reason."
