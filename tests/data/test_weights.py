import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_noisy import NoisyImageClassifier, NoisyImageDataModule

from ..photos import draw_image

KINDS = ("ant", "bee", "cat")


@pytest.fixture
def weighted(tmp_path):
    """A table of photos in which row r weighs r / 10, and test images of which some weigh nothing."""
    rows = []
    for number in range(30):
        draw_image(number % 3, number).save(tmp_path / f"{number}.png")
        split = "test" if number >= 27 else "train"
        weight = None if split == "test" else number / 10
        rows.append({"path": f"{number}.png", "label": KINDS[number % 3], "split": split, "label_weight": weight})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    return tmp_path / "list.parquet"


def by_id(batch):
    return dict(zip(batch.ids, batch.weights.tolist(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_come_with_their_images(weighted, workers):
    data = NoisyImageDataModule(str(weighted), batch_size=7, num_workers=workers, image_size=16, max_train_images=20)
    data.prepare_data()
    data.setup("fit")
    found = {}
    for batch in data.train_dataloader():
        assert batch.weights.dtype == torch.float32
        assert torch.equal(batch.to("cpu").weights, batch.weights)
        assert batch.to("meta").weights.device.type == "meta"
        found |= by_id(batch)
    assert found == {name: pytest.approx(int(name.removesuffix(".png")) / 10) for name in found}
    assert len(found) == len(data.splits["train"])
    assert next(iter(data.test_dataloader())).weights is None


def test_weights_have_the_usual_name_or_the_given_one(weighted, tmp_path):
    table = pq.read_table(weighted)
    names = ["trust" if name == "label_weight" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / "other.parquet")
    assert NoisyImageDataModule(str(tmp_path / "other.parquet")).splits["train"].weights is None
    data = NoisyImageDataModule(str(tmp_path / "other.parquet"), weight_column="trust", val_fraction=0.0)
    assert np.array_equal(data.splits["train"].weights, np.arange(27, dtype=np.float32) / np.float32(10))
    with pytest.raises(ValueError, match=r"`weight_column` to name a column.*got 'trusty'.* 'trust'"):
        _ = NoisyImageDataModule(str(tmp_path / "other.parquet"), weight_column="trusty").splits
    beside = NoisyImageDataModule(
        str(tmp_path / "other.parquet"), weight_column="trust", test_source=str(weighted), val_fraction=0.0
    )
    assert beside.splits["test"].weights is None, "another source may lack the column, and only training weighs"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -0.5, 1.0, 1.0], r"row 1 .'1.png'. has -0.5"),
        ([1.0, 1.0, float("nan"), 1.0], "row 2 .* has nan"),
        ([float("inf"), 1.0, 1.0, 1.0], "row 0 .* has inf"),
        ([1.0, 1.0, 1.0, None], "row 3 .* has None"),
        ([0.0, 0.0, 0.0, 0.0], "all of them are 0"),
        (["much", "less", "a", "b"], "to be numbers, but got the type string"),
    ],
)
def test_wrong_weights_are_one_sentence(values, message, tmp_path):
    for number in range(4):
        draw_image(number % 2, number).save(tmp_path / f"{number}.png")
    table = {"path": [f"{number}.png" for number in range(4)], "label": ["a", "b", "a", "b"], "label_weight": values}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=message) as error:
        _ = NoisyImageDataModule(str(tmp_path / "list.parquet")).splits
    assert "list.parquet" in str(error.value) and "\n" not in str(error.value)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 3)

    def forward(self, images):
        return self.layer(images.flatten(1))


def training_batch(weights):
    from lightning_noisy.image_batch import ImageBatch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 2, 1, -1])
    return ImageBatch(images, labels, None, list("abcd"), None if weights is None else torch.tensor(weights))


@pytest.mark.parametrize("noise", [None, {"warmup_epochs": 0}, {"warmup_epochs": 1}])
def test_the_loss_and_the_counts_weigh(noise):
    torch.manual_seed(0)
    model = NoisyImageClassifier(Net(), 3, noise=noise)
    model.log = lambda name, value, **_: logged.update({name: value})
    logged = {}
    batch = training_batch([0.5, 0.0, 2.0, 7.0])
    logits = model(batch.images)
    uses_layer = noise is not None and noise["warmup_epochs"] == 0
    if model.noise_layer is not None:
        model.noise_layer.eval()  # no dropout
    log_probs = model.noise_layer(logits) if uses_layer else logits.log_softmax(dim=1)
    losses = F.nll_loss(log_probs[:3], batch.noisy_labels[:3], reduction="none")
    loss = model.training_step(batch, 0)
    torch.testing.assert_close(loss, (losses * torch.tensor([0.5, 0.0, 2.0])).sum() / 4)
    torch.testing.assert_close(logged["train/loss"], (losses * torch.tensor([0.5, 0.0, 2.0])).sum() / 2.5)
    expected = torch.zeros(3, 3)
    for row, weight in enumerate([0.5, 0.0, 2.0]):
        expected[logits[row].argmax(), batch.noisy_labels[row]] += weight
    torch.testing.assert_close(model.epoch_counts.so_far().label_counts.float(), expected)


def test_an_image_that_weighs_nothing_leaves_no_trace_and_ones_change_nothing():
    gradients = []
    for weights, labels in (([1.0, 1.0, 0.0, 1.0], None), (None, torch.tensor([0, 2, -1, -1]))):
        torch.manual_seed(0)
        model = NoisyImageClassifier(Net(), 3, noise=None)
        model.log = lambda *_, **__: None
        batch = training_batch(weights)
        batch.noisy_labels = batch.noisy_labels if labels is None else labels
        model.training_step(batch, 0).backward()
        gradients.append(model.backbone.layer.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"label_smoothing": 0.2}])
def test_mixed_labels_sum_up_to_the_weights(mixing):
    model = NoisyImageClassifier(Net(), 3, noise=None, **mixing)
    batch = training_batch([0.5, 0.0, 2.0, 7.0])
    torch.manual_seed(0)
    _, soft, _ = model.mix(batch.images, batch.noisy_labels, batch.weights)
    torch.testing.assert_close(soft.sum(), torch.tensor(2.5))
    if "label_smoothing" in mixing:
        torch.testing.assert_close(soft.sum(dim=1), torch.tensor([0.5, 0.0, 2.0, 0.0]))
