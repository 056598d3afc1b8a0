"""Training a network that is too large for each GPU: its weights, gradients and optimizer are shared out (FSDP2)."""

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lightning_noisy.models.layer_groups import block_classes
from lightning_noisy.training.checkpoint_io import AtomicCheckpointIO

_SKELETON = "_skeleton_before_sharding"


class ShardedStrategy(ModelParallelStrategy):
    """Fully sharded data parallelism by torch's ``fully_shard`` over all processes, on GPUs and on a CPU.

    Each child of the LightningModule is sharded, and the repeated blocks within it, so that a process holds a block's
    weights only while it computes it. A checkpoint is one file with all weights, as without sharding: it is written
    whole or not at all, and resumes with any number of processes, sharded or not. The process of rank zero puts it
    together in its main memory.

    Raises:
        ValueError: When it starts, if the module has batch norms that learn or weights outside its children, a callback
            averages the weights, or several processes are to predict.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.checkpoint_io = AtomicCheckpointIO()

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        module = self.lightning_module
        assert module is not None
        _check_trainer(module.trainer, self._data_parallel_size)
        super().setup_environment()
        # Lightning calls the module's hook when it is time to shard; one of the module's own comes first.
        own_hook = module.configure_model if is_overridden("configure_model", module) else None
        if not isinstance(own_hook, functools.partial):
            module.configure_model = functools.partial(_shard_children, module, self, own_hook)  # type: ignore[method-assign]

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads weights and optimizers from a file that one process or many have written."""
        checkpoint = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            if _holds_tensors(state):
                named = _keyed_by_name(state, optimizer, self.model)
                set_optimizer_state_dict(self.model, optimizer, named, options=options)
            else:  # of SGD without momentum: torch would look in vain for the device to send to
                optimizer.load_state_dict(state)
        return checkpoint


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of the module are shared out over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole_copy(module: nn.Module) -> nn.Module:
    """A copy, on the CPU and with all weights, of a child that :class:`ShardedStrategy` has sharded.

    Every process must call it, and each gets a copy.
    """
    whole = copy.deepcopy(module.__dict__[_SKELETON])
    whole.load_state_dict({name: _whole(tensor) for name, tensor in module.state_dict().items()}, assign=True)
    return whole.train(module.training)


def _shard_children(module: L.LightningModule, strategy: ShardedStrategy, own_hook: Any) -> None:
    if own_hook is not None:
        own_hook()
    if is_sharded(module):  # a test after a fit
        return
    _check_module(module)
    _start_alike(module, strategy)
    for child in module.children():
        if any(True for _ in child.parameters()):
            child.__dict__[_SKELETON] = _skeleton(child)
            _shard(child, strategy.device_mesh["data_parallel"])


def _shard(child: nn.Module, mesh: DeviceMesh) -> None:
    names = block_classes(child)
    for block in [part for part in child.modules() if type(part).__name__ in names]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # Without the last argument the outermost weights would stay whole after a validation.
    fully_shard(child, mesh=mesh, reshard_after_forward=True)


def _start_alike(module: nn.Module, strategy: ShardedStrategy) -> None:
    """Gives all processes the weights of rank zero: each keeps a share of what it holds itself."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            sent = tensor.to(strategy.root_device)
            torch.distributed.broadcast(sent, src=0)
            tensor.copy_(sent)


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy without weights, which takes no memory: a sharded module can't be copied."""
    without_data = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
        for parameter in module.parameters()
    }
    return copy.deepcopy(module, without_data)


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def _holds_tensors(state: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Tensor) for values in state["state"].values() for value in values.values())


def _keyed_by_name(state: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state with the names of the parameters in place of numbers, which count within the groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    name_of: dict[Any, str] = {}
    named_groups = []
    for saved, group in groups:
        ours = [names[parameter] for parameter in group["params"]]
        name_of |= dict(zip(saved["params"], ours, strict=True))
        named_groups.append({**saved, "params": ours})
    return {"state": {name_of[key]: value for key, value in state["state"].items()}, "param_groups": named_groups}


def _check_trainer(trainer: Any, processes: int) -> None:
    if trainer.predicting and processes > 1:  # each block waits for all processes, which need not have as many batches
        raise ValueError(
            f"Expected one process to predict with sharded weights, but got {processes}. Predict with "
            "`trainer.devices` 1 and `trainer.strategy` 'auto': the checkpoint is the same."
        )
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            raise ValueError(
                f"Expected no average of the weights in a sharded training, but got the callback "
                f"{type(callback).__name__}, which can't hold sharded weights. Leave it out, or train by the strategy "
                "`ddp`."
            )


def _check_module(module: nn.Module) -> None:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise ValueError(
            f"Expected the weights of a sharded training to lie in the modules of {type(module).__name__}, but got "
            f"{', '.join(own)} in itself. Put them into a module of their own with a `forward`."
        )
    norm = next(_learning_batch_norms(module), None)
    if norm is not None:
        raise ValueError(
            f"Expected a network without batch norm in a sharded training, but got {norm!r}, whose statistics would "
            "differ from process to process. Train a network with layer norm (ViT, ConvNeXt), freeze it by "
            "`trainable_blocks`, or use the strategy `ddp`."
        )


def _learning_batch_norms(module: nn.Module) -> Iterator[str]:
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and any(parameter.requires_grad for parameter in part.parameters()):
            yield name
