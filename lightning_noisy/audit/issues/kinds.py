"""The kinds of issues, as columns: ``is_KIND``, and ``KIND_score`` in [0, 1], the lower, the worse."""

import pyarrow as pa

SPLITS = ("train", "val", "test")
"""A picture that is in several of them belongs to the last."""
LABEL_KIND = "label_issue"
KINDS = {
    LABEL_KIND: "the given label is probably wrong",
    "near_duplicate": "the same picture is there several times",
    "exact_duplicate": "the very same pixels are there several times",
    "conflicting_duplicate": "the same picture has different labels",
    "outlier": "the picture looks unlike all classes",
    "placeholder": "one picture that is there very often, under many labels",
    "low_information": "hardly anything is in the picture",
    "dark": "the picture is dark",
    "light": "the picture is too bright",
    "blurry": "the picture is blurry",
    "odd_aspect_ratio": "the picture is very long or very high",
    "odd_size": "the picture is much smaller or larger than the others",
}
"""What each says of an image, in the order in which people are told."""
_OTHERS = [kind for kind in KINDS if kind != LABEL_KIND]
ISSUES_SCHEMA = pa.schema(
    [
        *(
            field
            for kind in _OTHERS
            for field in (pa.field(f"is_{kind}", pa.bool_()), pa.field(f"{kind}_score", pa.float32()))
        ),
        pa.field("near_duplicate_group", pa.int64()),
        pa.field("near_duplicate_splits", pa.string()),
    ]
)
"""What is known beside the label: ``near_duplicate_group`` is the same number for the same picture, and
``near_duplicate_splits`` names the splits that it is in; both are null of an image that is alone."""
COLUMNS_SCHEMA = pa.schema(
    [pa.field(f"is_{LABEL_KIND}", pa.bool_()), pa.field(f"{LABEL_KIND}_score", pa.float32()), *ISSUES_SCHEMA]
)
"""The columns of ``audit.parquet`` that tell the kinds."""
