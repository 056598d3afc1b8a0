import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities.data import extract_batch_size
from PIL import ExifTags, Image
from torchvision.transforms import v2

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.data.image_stores import ArrayStore, FileStore
from lightning_noisy.data.labelled_images import LabelledImages
from lightning_noisy.data.loader import EpochSampler, EvaluationSampler, Filler, ImageDataset, ResumableLoader
from lightning_noisy.image_batch import ImageBatch

RANDOM = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.PILToTensor(), v2.ToDtype(torch.float32)])


def make_images(count: int) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 255, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % 2
    ids = pa.array([f"image {row}" for row in range(count)])
    return LabelledImages(ids, labels, labels.copy(), ["a", "b"], ArrayStore(pixels), np.arange(count))


def make_loader(count=10, batch_size=3, workers=0, seed=5) -> ResumableLoader:
    dataset = ImageDataset(make_images(count), RANDOM, seed)
    sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=seed, with_epoch=True)
    generator = torch.Generator().manual_seed(seed)
    return ResumableLoader(dataset, sampler, batch_size, num_workers=workers, generator=generator)


@given(count=st.integers(1, 60), ranks=st.integers(1, 5), epoch=st.integers(0, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_every_image_is_seen_once_in_an_epoch_over_all_ranks(count, ranks, epoch, seed):
    seen = []
    for rank in range(ranks):
        sampler = EpochSampler(range(count), ranks, rank, seed, with_epoch=True)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        assert all(its_epoch == epoch for its_epoch, _ in drawn)
        seen += [index for _, index in drawn]
    assert set(seen) == set(range(count))
    assert len(seen) - count < ranks  # padding only


@given(count=st.integers(2, 40), batch_size=st.integers(1, 7), epoch=st.integers(0, 4), data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_loader_goes_on_where_another_stopped(count, batch_size, epoch, data):
    whole = make_loader(count, batch_size)
    whole.sampler.set_epoch(epoch)
    batches = list(whole)
    done = data.draw(st.integers(0, len(batches)))

    first = make_loader(count, batch_size)
    first.sampler.set_epoch(epoch)
    iterator = iter(first)
    for _ in range(done):
        next(iterator)
    second = make_loader(count, batch_size)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    rest = list(second)
    if done < len(batches):
        assert [batch.ids for batch in rest] == [batch.ids for batch in batches[done:]]
        assert all(torch.equal(a.images, b.images) for a, b in zip(rest, batches[done:], strict=True))
    second.sampler.set_epoch(epoch + 1)
    assert len(list(second)) == len(batches)


def test_what_was_skipped_of_one_epoch_is_not_skipped_of_the_next():
    loader = make_loader(count=10, batch_size=3)
    loader.load_state_dict({"epoch": 1, "batches_done": 2})
    loader.sampler.set_epoch(2)
    assert sum(len(batch) for batch in loader) == 10


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    torch.manual_seed(1)
    expected = {
        identifier: image for batch in make_loader() for identifier, image in zip(batch.ids, batch.images, strict=True)
    }
    torch.manual_seed(2)
    for workers, batch_size in ((0, 4), (2, 3)):
        for batch in make_loader(workers=workers, batch_size=batch_size):
            assert all(torch.equal(image, expected[name]) for name, image in zip(batch.ids, batch.images, strict=True))
    other_epoch = make_loader()
    other_epoch.sampler.set_epoch(1)
    assert any(
        not torch.equal(image, expected[name])
        for batch in other_epoch
        for name, image in zip(batch.ids, batch.images, strict=True)
    )


def test_reading_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(make_loader())
    assert torch.equal(torch.rand(3), expected)


def test_a_batch_is_what_its_samples_are():
    dataset = ImageDataset(make_images(6), RANDOM, 0)
    keys = [(1, 4), (0, 2), (1, 0)]
    for alone, together in zip([dataset[key] for key in keys], dataset.__getitems__(keys), strict=True):
        assert torch.equal(alone[0], together[0]) and alone[1:] == together[1:]


def test_a_photo_is_upright(tmp_path):
    photo = Image.new("RGB", (40, 20), "white")
    photo.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    photo.save(tmp_path / "a.png", exif=exif)
    read = FileStore(tmp_path, pa.array(["a.png"])).read(0)
    assert read.size == (20, 40)
    assert read.getpixel((10, 5)) == (0, 0, 0) and read.getpixel((10, 35)) == (255, 255, 255)


def test_pillow_tries_the_usual_formats_first():
    code = "from lightning_noisy.data.readers.base import image_suffixes; image_suffixes()"
    code += "; from PIL import Image; print(*Image.ID[:6])"  # in a fresh process: the order is that of the first call
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"JPEG", "PNG"} <= set(ran.stdout.split())


def test_a_batch_unpacks_moves_and_tells_its_size():
    batch = ImageBatch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([-1, 1]), ["a", "b"])
    images, noisy_labels = batch
    assert images is batch.images
    assert noisy_labels is batch.noisy_labels
    moved = batch.to(torch.device("meta"), non_blocking=True)
    assert moved.images.device.type == moved.clean_labels.device.type == "meta"
    assert moved.ids == ["a", "b"]
    assert extract_batch_size(batch) == len(batch) == 2
    without = ImageBatch(images, noisy_labels, None, ["a", "b"])
    assert without.to("cpu").clean_labels is None


def test_clean_labels_are_left_out_where_a_split_has_none():
    images = make_images(4)
    images.clean_labels[:] = -1
    batch = ImageDataset(images, RANDOM, 0).collate([ImageDataset(images, RANDOM, 0)[0]])
    assert batch.clean_labels is None


@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_read_each_epoch_anew(workers):
    loader = make_loader(workers=workers)
    orders = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        orders.append([name for batch in loader for name in batch.ids])
    assert len({tuple(order) for order in orders}) == 3
    assert len({frozenset(order) for order in orders}) == 1


@pytest.mark.parametrize("count", [1, 5, 6, 7])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_evaluation_reads_each_image_once_and_as_many_on_each_rank(count, replicas):
    shares = [list(EvaluationSampler(range(count), replicas, rank)) for rank in range(replicas)]
    assert len({len(share) for share in shares}) == 1
    read = [index for share in shares for index in share if not isinstance(index, Filler)]
    assert sorted(read) == list(range(count))
    assert all(
        share == sorted(share) for share in ([i for i in share if not isinstance(i, Filler)] for share in shares)
    )


def test_the_labels_of_a_filler_are_unknown(photos):
    data = NoisyImageDataModule(str(photos), image_size=16, noise="pair:0.5", num_workers=0)
    data.setup("fit")
    dataset = data._datasets["val"]
    filler, expected = dataset[Filler(1)], dataset[1]
    assert torch.equal(filler.pixels, expected.pixels) and filler.id == expected.id
    assert filler.noisy_label == filler.clean_label == -1
