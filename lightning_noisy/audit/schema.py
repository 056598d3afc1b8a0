"""The files of an audit and the columns of its table, each named here once."""

import pyarrow as pa

AUDIT_FILE = "audit.parquet"
PROBABILITIES_FILE = "probabilities.parquet"
ISSUES_FILE = "issues.csv"
REPORT_FILE = "report.html"
HISTOGRAM_FILE = "posterior_histogram.png"
SUMMARY_FILE = "summary.json"
"""Written last: it says that all others are there."""
RESULT_FILES = (AUDIT_FILE, PROBABILITIES_FILE, ISSUES_FILE, HISTOGRAM_FILE, REPORT_FILE)
MANIFEST_FILE = "manifest.parquet"

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
KINDS_SCHEMA = pa.schema(
    [pa.field(f"is_{LABEL_KIND}", pa.bool_()), pa.field(f"{LABEL_KIND}_score", pa.float32()), *ISSUES_SCHEMA]
)
"""The columns of ``audit.parquet`` that tell the kinds: ``is_KIND``, and ``KIND_score`` in [0, 1], the lower, the
worse."""

IMAGE_SCHEMA = pa.schema(
    [pa.field("id", pa.string()), pa.field("path", pa.string()), pa.field("split", pa.string()), ("row", pa.int64())]
)
"""Which image: ``row`` is its place in its split, ``path`` is null where it has no file of its own."""
PART_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        *IMAGE_SCHEMA,
        pa.field("given_label", pa.int32()),
        pa.field("suggested_label", pa.int32()),
        pa.field("p_given", pa.float32()),
        pa.field("p_suggested", pa.float32()),
        pa.field("clean_probability", pa.float32()),
        pa.field("is_issue", pa.bool_()),
        pa.field("predicted_label", pa.int32()),
    ]
)
"""What is known of each image while an audit is being made; ``position`` numbers the images of all splits."""
PROBABILITIES = pa.field("probabilities", pa.list_(pa.float32()))
"""The posterior of all classes, where it is asked for."""
LOG_PROBS = "log_probs"
"""What a trained classifier itself says of all classes: a column of its parts alone."""
LABEL_SCHEMA = pa.schema(
    [
        pa.field("given_label", pa.int32()),
        pa.field("given_class", pa.string()),
        pa.field("suggested_label", pa.int32()),
        pa.field("suggested_class", pa.string()),
        *(PART_SCHEMA.field(name) for name in ("p_given", "p_suggested", "clean_probability", "is_issue")),
        pa.field("rank", pa.int64()),
    ]
)
"""What an audit says of each label: ``rank`` is 1 for the most suspicious one."""
AUDIT_SCHEMA = pa.schema([*IMAGE_SCHEMA, *LABEL_SCHEMA, *KINDS_SCHEMA])
"""The columns of ``audit.parquet``."""


def part_schema(with_probabilities: bool) -> pa.Schema:
    """The columns of the parts that an audit is made of."""
    return PART_SCHEMA.append(PROBABILITIES) if with_probabilities else PART_SCHEMA
