"""Processes whose Hub is the server of the tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .hub_server import HubServer


def client_env(server: HubServer, home: Path) -> dict[str, str]:
    """The environment of a process whose Hub is the server and whose cache is under `home`."""
    foreign = re.compile(r"HF_|HUGGING|TRANSFORMERS_|.*_proxy$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    own = {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(home / "hf_home"), "HF_HUB_OFFLINE": "0"}
    off = ("XET", "TELEMETRY", "PROGRESS_BARS", "UPDATE_CHECK")
    return kept | own | {f"HF_HUB_DISABLE_{name}": "1" for name in off}


def run_client(server: HubServer, home: Path, script: str, *args: object, **env: str) -> Any:
    """Run a script as a client (`json` and `sys` are there); returns the JSON of the last line that it prints."""
    command = [sys.executable, "-c", "import json, sys\n" + script, *map(str, args)]
    environment = client_env(server, home) | env
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((done.stdout.strip() or "null").splitlines()[-1])
