"""How right an audit is, against the true labels."""

import numpy as np
from auditing.methods import Verdict
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score


def measure(verdict: Verdict, given: np.ndarray, clean: np.ndarray) -> dict[str, float | None]:
    """A line of results; ``None`` where there is nothing to measure.

    Args:
        verdict: Of (N,) labels.
        given: (N,) the labels that were audited.
        clean: (N,) the truth.
    """
    wrong, issues = given != clean, verdict.is_issue
    right = verdict.suggested == clean
    corrected = np.where(verdict.is_taken, verdict.suggested, given)
    count, suspicious = int(wrong.sum()), np.argsort(verdict.quality, kind="stable")
    some = 0 < count < len(wrong)
    measured = {
        "auc": roc_auc_score(wrong, -verdict.quality) if some else None,
        "average_precision": average_precision_score(wrong, -verdict.quality) if some else None,
        "precision_at_k": wrong[suspicious[:count]].mean() if some else None,
        "flagged": issues.mean(),
        "f1": f1_score(wrong, issues) if some else None,
        "right_suggestions": right[issues].mean() if issues.any() else None,
        "put_right": (corrected == clean)[wrong].mean() if some else None,
        "error_before": wrong.mean(),
        "error_after": (corrected != clean).mean(),
        "error_estimated": verdict.error,
    }
    return {name: None if value is None else round(float(value), 4) for name, value in measured.items()}
