"""Several processes that torchrun starts."""

import os
import subprocess
from pathlib import Path

from ..quick import python


def torchrun(script, *arguments, folder, succeeds=True, processes=2):
    (folder / "script.py").write_text(script, encoding="utf-8")
    command = [
        python(),
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "script.py",
    ]
    path = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
    ran = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if succeeds:
        assert ran.returncode == 0, ran.stderr[-3000:]
    return ran
