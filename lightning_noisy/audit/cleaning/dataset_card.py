"""The data card of an audit on the Hub."""

from huggingface_hub import DatasetCardData

from lightning_noisy.audit.cleaning.cleaning import Cleaning
from lightning_noisy.audit.cleaning.plan import in_words
from lightning_noisy.data.description import public_name
from lightning_noisy.export.card import MOST_CLASSES, MOST_ROWS, markdown_environment
from lightning_noisy.run_record import CARD_TAG
from lightning_noisy.utils.text import plain_text

DATA_TAG = "label-audit"
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
}


def render_dataset_card(cleaning: Cleaning, repo_id: str, license: str, revision: str | None) -> str:
    """The whole README: YAML between dashes, then Markdown in which texts of the user's are escaped.

    Args:
        cleaning: What is pushed.
        repo_id: Where it will lie; the snippet loads it from there.
        license: By the Hub's identifier.
        revision: The branch, for the snippet.
    """
    summary = cleaning.audit.summary
    noisiest = sorted(summary.classes, key=lambda each: (-each.errors.value, each.name))
    values = {
        "title": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "revision": revision,
        "policy": cleaning.policy,
        "report": cleaning.report,
        "reasons": [f"{count:,}: {in_words(reason)}" for reason, count in cleaning.report.reasons.items()],
        "cleaning_kinds": cleaning.kinds,
        "summary": summary,
        "origin": public_name(str(summary.source.get("source", ""))),
        "splits": {HUB_SPLITS[split]: count for split, count in cleaning.report.splits.items()},
        "noisiest": noisiest,
        "most_classes": MOST_CLASSES,
        "most_rows": MOST_ROWS,
    }
    environment = markdown_environment("lightning_noisy.audit.cleaning")
    body = environment.get_template("dataset_card.md.jinja").render(values)
    return f"---\n{_metadata(cleaning, repo_id, license).to_yaml()}\n---\n\n{body}"


def _metadata(cleaning: Cleaning, repo_id: str, license: str) -> DatasetCardData:
    splits = [HUB_SPLITS[split] for split in HUB_SPLITS if split in cleaning.report.splits]
    data_files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    count = cleaning.report.kept
    return DatasetCardData(
        license=license,
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in _SIZES.items() if count < limit), "100M<n<1B")],
        tags=[CARD_TAG, DATA_TAG, "noisy-labels"],
        pretty_name=plain_text(repo_id.rpartition("/")[2]),
        configs=[{"config_name": "default", "data_files": data_files}],
    )
