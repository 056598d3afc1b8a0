"""Pictures and what is known of them."""

import numpy as np
import pyarrow as pa
from PIL import Image

from lightning_noisy.inference.facts import FACTS_SCHEMA, facts_arrays, image_facts


def pictures(count, side=40, seed=0):
    generator = np.random.default_rng(seed)
    shapes = [generator.integers(0, 256, (7, 7, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(shape).resize((side, side), Image.Resampling.BICUBIC) for shape in shapes]


def facts_of(images):
    facts = [{**found, "thumbnail": found["thumbnail"].tolist()} for found in map(image_facts, images)]
    return facts_arrays(pa.Table.from_pylist(facts, schema=FACTS_SCHEMA))
