"""What the tests of streams share."""

from lightning_noisy import StreamingImageDataModule

from .shard_files import NAMES


def own_ids(batches):
    """Of what is no filler."""
    return [
        name
        for batch in batches
        for name, label in zip(batch.ids, batch.noisy_labels.tolist(), strict=True)
        if label >= 0
    ]


SIZES = (7, 3, 11, 5)


def make(source, **options):
    return StreamingImageDataModule(str(source), **{"image_size": 16, "batch_size": 4, "num_workers": 0, **options})


def read_labels(data):
    """The class name of each image by its id, as a training reads them."""
    data.setup("fit")
    return {
        name: data.class_names[label]
        for batch in data.train_dataloader()
        for name, label in zip(batch.ids, batch.noisy_labels.tolist(), strict=True)
        if label >= 0
    }


def expected_labels(form, sizes=SIZES, names=NAMES):
    places = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    return {form.format(shard=shard, row=row, n=n): names[n % 3] for n, (shard, row) in enumerate(places)}


PARQUET = "{shard:03}.parquet#{row}"


TAR = "{shard:03}.tar/photos/{n:05}"
