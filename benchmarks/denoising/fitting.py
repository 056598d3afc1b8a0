"""The training loop that all methods share."""

import time
from collections.abc import Callable

import torch
from denoising.cells import Cell
from denoising.methods import Method
from torch import Tensor, nn


def fit(
    cell: Cell, rows: Tensor, method: Method, seed: int, after_epoch: Callable[[nn.Module], None] | None = None
) -> tuple[nn.Module, float]:
    """Trains on the images ``rows``, (N,); the network, and the processor's seconds without ``after_epoch``."""
    torch.manual_seed(seed)
    network = cell.network().to(cell.images.device)
    images, labels = cell.images[rows], cell.noisy_labels[rows]
    groups = [{"params": network.parameters(), "lr": cell.learning_rate, "weight_decay": 0.01}]
    optimizer = torch.optim.AdamW([*groups, *method.parameter_groups(cell.learning_rate)])
    steps_in_epoch = len(images) // cell.batch_size
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cell.epochs * steps_in_epoch)
    generator = torch.Generator("cpu").manual_seed(seed)
    seconds = 0.0
    for epoch in range(cell.epochs):
        start = time.process_time()
        network.train()
        order = torch.randperm(len(images), generator=generator, device="cpu")
        order = order[: steps_in_epoch * cell.batch_size].to(images.device)
        seen = torch.zeros(len(images), cell.num_classes, device=images.device) if method.looks_at_epochs else None
        for batch in order.split(cell.batch_size):
            seen_images = images[batch] if cell.augment is None else cell.augment(images[batch])
            logits = network(seen_images)
            loss = method.loss(logits, labels[batch], batch, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if seen is not None:
                seen[batch] = logits.detach()
        if seen is not None:
            method.end_epoch(epoch, seen[order], labels[order])
        seconds += time.process_time() - start
        if after_epoch is not None:
            after_epoch(network)
    return network, seconds


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """(M, K) logits, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in images.split(1000)])
