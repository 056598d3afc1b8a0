"""The most suspicious images in W&B, read back from the files of an offline run."""

import pytest

from lightning_noisy.audit.judging.by_model import audit_labels
from lightning_noisy.audit.report.wandb_table import HISTOGRAM_NAME, NAME, TABLE_COLUMNS, log_suspicious_images
from lightning_noisy.training.loggers.wandb_logger import NoisyWandbLogger

from ...training.loggers.wandb_file import finish, read_artifacts, read_history, read_table, run_files
from ..small import digits, trained_on, trainer

pytestmark = pytest.mark.usefixtures("no_wandb_account")


def test_the_first_rows_are_there_with_their_pictures(tmp_path):
    data = digits()
    audit = audit_labels(trained_on(data, epochs=1), data, trainer=trainer())
    logger = NoisyWandbLogger(save_dir=str(tmp_path))
    log_suspicious_images([logger], audit, most_images=7)
    finish()
    (path,) = run_files(tmp_path)
    (logged,) = [row[f"{NAME}/path"] for row in read_history(path) if f"{NAME}/path" in row]
    columns, rows = read_table(path.parent / "files" / logged)
    assert columns == list(TABLE_COLUMNS)
    expected = audit.table.slice(0, 7).to_pylist()
    assert [row[TABLE_COLUMNS.index("id")] for row in rows] == [row["id"] for row in expected]
    (artifact,) = read_artifacts(path)
    names = [entry.path for entry in artifact.manifest.contents]
    assert sum(name.startswith("media/images/") and name.endswith(".png") for name in names) == 7
    histograms = [row for row in read_history(path) if any(name.startswith(HISTOGRAM_NAME) for name in row)]
    assert len(histograms) == 1 and list((path.parent / "files").rglob("posterior_histogram*.png"))
