"""What the tests of streams share."""


def own_ids(batches):
    """Of what is no filler."""
    return [
        name
        for batch in batches
        for name, label in zip(batch.ids, batch.noisy_labels.tolist(), strict=True)
        if label >= 0
    ]
