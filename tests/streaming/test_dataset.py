"""Each image once in an epoch, in as many steps everywhere, and on from anywhere."""

import gc
import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from lightning_noisy.data.readers.base import Columns
from lightning_noisy.streaming.counts import scan_shards
from lightning_noisy.streaming.dataset import StreamedImages, StreamLoader, _Row, plan_stream
from lightning_noisy.streaming.find import find_shards

from .shard_files import NAMES, picture, write_parquet, write_tars
from .small import own_ids

RANDOM = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.PILToTensor(), v2.ToDtype(torch.float32)])
SIZES = (7, 3, 11, 5, 9)


def look(folder):
    return scan_shards(find_shards(str(folder), "source")["train"], Columns(), str(folder))


def make_loaders(shards, processes=1, workers=0, batch_size=4, buffer_size=6, **options):
    """A loader for each process."""
    return [
        StreamLoader(
            StreamedImages(
                shards,
                list(NAMES),
                plan,
                RANDOM,
                batch_size,
                **{"buffer_size": buffer_size, "rank": rank, "seed": 5, "is_random": True, **options},
            ),
            workers,
            processes,
        )
        for rank, plan in enumerate(plan_stream(shards.rows, batch_size, processes, max(workers, 1)))
    ]


def read(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def all_ids(sizes):
    return sorted(f"{shard:03}.parquet#{row}" for shard, size in enumerate(sizes) for row in range(size))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return look(write_parquet(tmp_path_factory.mktemp("shards"), SIZES))


@given(
    rows=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    processes=st.integers(1, 6),
    workers=st.integers(1, 4),
    batch_size=st.integers(1, 9),
)
@settings(deadline=None, max_examples=200)
def test_a_plan_gives_each_shard_to_one_worker_and_all_processes_as_many_steps(rows, processes, workers, batch_size):
    rows = np.array(rows)
    plans = plan_stream(rows, batch_size, processes, workers)
    assert sorted(shard for plan in plans for own in plan.shards for shard in own) == list(range(len(rows)))
    assert len({plan.steps for plan in plans}) == 1
    for plan in plans:
        for own, batches in zip(plan.shards, plan.batches, strict=True):
            assert batches * batch_size >= rows[own].sum()
    loads = [sum(rows[own].sum() for own in plan.shards) for plan in plans]
    assert max(loads) - min(loads) <= rows.max(), "one shard is the most by which they differ"
    assert plans[0].steps == sum(-(-int(rows[own].sum()) // batch_size) for own in plans[0].shards), "no fillers alone"


@given(
    batches=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_after_some_steps_each_worker_has_given_what_a_round_robin_gives(batches, data):
    (plan,) = plan_stream(np.array([max(sum(batches), 1)]), 1, 1, 1)
    plan = type(plan)([[]] * len(batches), batches)
    order = [worker for turn in range(max(batches)) for worker, own in enumerate(batches) if turn < own]
    steps = data.draw(st.integers(0, len(order)))
    given_so_far, turn = plan.given_after(steps)
    assert given_so_far == [order[:steps].count(worker) for worker in range(len(batches))]
    assert steps == len(order) or turn == order[steps]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    processes=st.integers(1, 3),
    workers=st.sampled_from([0, 0, 0, 0, 2]),  # processes that are started anew for each loader
    batch_size=st.integers(1, 5),
    buffer_size=st.integers(1, 12),
)
@settings(deadline=None, max_examples=20)
def test_every_image_is_read_once_in_an_epoch_over_all_processes_and_workers(
    tmp_path_factory, sizes, processes, workers, batch_size, buffer_size
):
    shards = look(write_parquet(tmp_path_factory.mktemp("shards"), sizes))
    loaders = make_loaders(shards, processes, workers, batch_size, buffer_size)
    for epoch in (0, 3):
        epochs = [read(loader, epoch) for loader in loaders]
        assert {len(batches) for batches in epochs} == {len(loader) for loader in loaders}
        assert len({len(batches) for batches in epochs}) == 1
        assert sorted(name for batches in epochs for name in own_ids(batches)) == all_ids(sizes)
        assert {len(batch) for batches in epochs for batch in batches} == {batch_size}


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_each_epoch_has_an_order_of_its_own(shards, workers, processes):
    if processes * workers > len(SIZES):
        return
    for loader in make_loaders(shards, processes, workers):
        orders = [tuple(own_ids(read(loader, epoch))) for epoch in range(3)]
        assert len(set(orders)) == 3
        assert len({frozenset(order) for order in orders}) == 1
        assert own_ids(read(loader, 1)) == list(orders[1]), "the same epoch has the same order"


def test_the_order_of_the_shards_changes_and_a_window_is_shuffled(shards):
    (loader,) = make_loaders(shards, buffer_size=2)
    firsts = {own_ids(read(loader, epoch))[0].split("#")[0] for epoch in range(20)}
    assert len(firsts) == len(SIZES)
    (loader,) = make_loaders(shards, buffer_size=100)
    rows = [int(name.split("#")[1]) for name in own_ids(read(loader))]
    assert sum(a > b for a, b in pairwise(rows)) > len(SIZES), "more than the starts of the shards"
    (loader,) = make_loaders(shards, buffer_size=1)
    rows = [tuple(map(int, name.split(".parquet#"))) for name in own_ids(read(loader, 7))]
    assert rows == sorted(rows), "without a buffer it is in order"


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_loader_goes_on_in_mid_epoch_with_the_same_bits(shards, workers):
    (whole,) = make_loaders(shards, workers=workers)
    batches = read(whole, 2)
    for steps in range(0, len(batches) + 1, 1 if workers == 0 else 3):
        (first,) = make_loaders(shards, workers=workers)
        first.sampler.set_epoch(2)
        iterator = iter(first)
        for _ in range(steps):
            next(iterator)
        (second,) = make_loaders(shards, workers=workers)
        second.load_state_dict(first.state_dict())
        assert second.state_dict() == first.state_dict()
        rest = read(second, 2)
        assert [batch.ids for batch in rest] == [batch.ids for batch in batches[steps:]]
        for found, expected in zip(rest, batches[steps:], strict=True):
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.noisy_labels, expected.noisy_labels)
        assert len(read(second, 3)) == len(batches)


@given(steps=st.integers(0, 30), buffer_size=st.integers(2, 40), batch_size=st.integers(1, 6), rank=st.integers(0, 2))
@settings(deadline=None, max_examples=40)
def test_any_process_goes_on_from_the_state_of_the_first(shards, steps, buffer_size, batch_size, rank):
    options = {"processes": 3, "batch_size": batch_size, "buffer_size": buffer_size}
    batches = read(make_loaders(shards, **options)[rank])
    steps = min(steps, len(batches))
    first = make_loaders(shards, **options)[0]
    iterator = iter(first)
    for _ in range(steps):
        next(iterator)
    second = make_loaders(shards, **options)[rank]
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [batch.ids for batch in rest] == [batch.ids for batch in batches[steps:]]
    assert [batch.noisy_labels.tolist() for batch in rest] == [b.noisy_labels.tolist() for b in batches[steps:]]


def test_what_was_done_of_one_epoch_is_not_skipped_of_the_next(shards):
    (loader,) = make_loaders(shards)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "steps_done": 2})
    assert own_ids(read(loader, 2)) and len(read(loader, 2)) == len(loader)


@pytest.mark.parametrize("name", ["processes", "num_workers", "batch_size", "buffer_size", "shards", "images"])
def test_an_epoch_that_was_begun_otherwise_is_not_gone_on_with(shards, name):
    (loader,) = make_loaders(shards)
    state = {**loader.state_dict(), name: 77, "steps_done": 2}
    with pytest.raises(ValueError, match=rf"middle of an epoch to have the same `{name}` as before, 77, but got"):
        loader.load_state_dict(state)
    loader.load_state_dict({**state, "steps_done": 5, "steps": 5})
    assert list(loader) == []
    assert len(read(loader, 1)) == len(loader), "at the end of an epoch it does not matter"


def test_augmentation_depends_on_seed_epoch_and_image_alone(shards):
    def images(**options):
        return {
            name: image
            for loader in make_loaders(shards, **options)
            for batch in read(loader)
            for name, image, label in zip(batch.ids, batch.images, batch.noisy_labels.tolist(), strict=True)
            if label >= 0
        }

    torch.manual_seed(1)
    expected = images()
    torch.manual_seed(2)
    for options in ({"workers": 2, "batch_size": 3}, {"processes": 2, "buffer_size": 9}):
        found = images(**options)
        assert found.keys() == expected.keys()
        assert all(torch.equal(image, expected[name]) for name, image in found.items())


def test_reading_leaves_the_global_random_state_alone(shards):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    for loader in make_loaders(shards):
        read(loader)
    assert torch.equal(torch.rand(3), expected)


def test_fillers_are_images_of_the_process_without_labels(shards):
    (loader,) = make_loaders(shards, batch_size=20, buffer_size=8)
    last = read(loader)[-1]
    is_filler = last.noisy_labels == -1
    assert is_filler.sum() == 2 * 20 - sum(SIZES)
    assert last.clean_labels is None
    own = set(own_ids(read(loader)))
    assert {name for name, filler in zip(last.ids, is_filler.tolist(), strict=True) if filler} <= own


def test_a_process_without_shards_is_filled_up_in_an_evaluation(tmp_path):
    shards = look(write_parquet(tmp_path / "one", [10]))
    loaders = make_loaders(shards, processes=3, buffer_size=1, is_random=False)
    epochs = [read(loader) for loader in loaders]
    assert [len(batches) for batches in epochs] == [3, 3, 3]
    assert [len(own_ids(batches)) for batches in epochs] == [10, 0, 0]


def test_at_most_a_window_of_images_is_held(tmp_path):
    shards = look(write_parquet(tmp_path / "shards", [20] * 6))
    (loader,) = make_loaders(shards, batch_size=5, buffer_size=30)
    gc.collect()
    gc.freeze()  # what is there already need not be looked at
    held = [sum(type(thing) is _Row for thing in gc.get_objects()) for _ in loader]
    gc.unfreeze()
    assert len(held) == 24
    assert 25 <= max(held) <= 31


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_memory_grows_neither_with_the_shards_nor_with_the_images(write, tmp_path):
    def peaks(count):
        """Bytes of Python's objects and of Arrow's, above what there was before the first batch."""
        shards = look(write(tmp_path / f"{count}", [16] * count, side=96))
        (loader,) = make_loaders(shards, batch_size=8, buffer_size=16)
        pool, before = pa.default_memory_pool(), pa.default_memory_pool().bytes_allocated()
        tracemalloc.start()
        in_arrow = max(pool.bytes_allocated() - before for _ in loader)
        in_python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return in_python, in_arrow

    peaks(1)  # imports
    one_shard = 16 * len(picture(0, 0, side=96))
    few, many = peaks(3), peaks(30)
    assert few[0] > one_shard
    for less, more in zip(few, many, strict=True):
        assert more < less + 2 * one_shard, "the images of 27 shards more are 27 times as much"
