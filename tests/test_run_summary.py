import io

import pytest
from rich.console import Console

from lightning_noisy.run_summary import run_summary

METRICS = {
    "lr-AdamW/backbone": 1e-3,
    "train/loss_clean": 1.5,
    "val/accuracy_noisy": 0.512,
    "val/accuracy_clean": 0.834,
    "noise/estimated_rate": 0.25,
    "noise/share": 1.0,
    "images_per_second": 1234.5,
}


def printed(width, **changes):
    out = io.StringIO()
    path = "runs/" + "a" * 150 + "/last.ckpt"
    summary = run_summary({**METRICS, **changes}, 3.0, 12, 3723.4, {"logs": path}, [f"lightning-noisy audit {path}"])
    Console(file=out, width=width).print(summary, soft_wrap=True)
    return out.getvalue().splitlines(), path


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_it_leads_with_what_counts_and_breaks_no_path(width):
    lines, path = printed(width)
    text = "\n".join(lines)
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    values = [value for _, value in cells if value]
    assert values[:3] == ["83.4%", "51.2%", "25.0%"]
    assert values[3:7] == ["3", "12", "1:02:03", "1234"]
    assert cells[0][0].startswith("accuracy on held-out")
    assert f"logs:            {path}" in lines and f"  lightning-noisy audit {path}" in lines
    assert "lr-AdamW" not in text and "train/loss_clean" in text


def test_an_estimate_of_a_layer_that_did_not_act_is_called_a_guess():
    assert "rough guess" not in "\n".join(printed(100)[0])
    assert "a rough guess │ 25.0%" in "\n".join(printed(100, **{"noise/share": 0.0})[0])
