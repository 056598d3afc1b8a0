"""Names of classes in a stranger's files."""

import pytest
import torch

from lightning_noisy.export.checkpoints import read_run_config


def test_a_configuration_of_the_own_libraries_is_read(tmp_path):
    config = {
        "data": {"class_path": "lightning_noisy.NoisyImageDataModule", "init_args": {"source": "evil.photos"}},
        "model": {"init_args": {"lr_scheduler": "cosine", "optimizer": {"class_path": "torch.optim.SGD"}}},
        "trainer": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}], "max_epochs": 3},
    }
    torch.save({"cli_config": config}, tmp_path / "last.ckpt")
    assert read_run_config(tmp_path / "last.ckpt") == config


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"class_path": "os.system"}},
        {"data": "os.system"},
        {"model": {"init_args": {"optimizer": "timeit.timeit"}}},
        {"model": {"init_args": {"lr_scheduler": {"class_path": "torchlike.X"}}}},
        {"trainer": {"callbacks": ["a_strangers.Callback"]}},
        {"trainer": {"callbacks": [{"class_path": "lightning.Fine"}, {"class_path": "a_strangers.Callback"}]}},
    ],
)
def test_others_are_refused_before_anything_is_imported(config, tmp_path):
    torch.save({"cli_config": config}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"If you trust it, give the config\.yaml"):
        read_run_config(tmp_path / "last.ckpt")
