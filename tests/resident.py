"""A process that has imported everything, and forks for each program of a test: none waits for the imports again.

    python -m tests.resident FOLDER

Three programs are written into FOLDER, and run in forks of this process: ``lightning-noisy``, and ``python``, which
takes a script, ``-c CODE`` or ``-m MODULE``, and ``plain-python``, which knows the libraries but not this package.
Processes that these start by ``sys.executable``, as Lightning and torchrun do, are forks too. A signal reaches the
program that was started, not its fork.
"""

import contextlib
import importlib
import json
import os
import random
import runpy
import signal
import socket
import sys
import traceback
import types
from pathlib import Path

import numpy as np

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
asked = json.dumps(dict(arguments=sys.argv, folder=os.getcwd(), environment=dict(os.environ))).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
sys.exit(int(server.recv(8) or b"70"))
"""
LIBRARIES = ("timm", "transformers", "transformers.trainer", "torch.distributed.run", "datasets", "peft", "PIL.Image")
PACKAGE = (
    "lightning.pytorch.cli", "duckdb", "sklearn.model_selection", "lightning_noisy.cli.lightning_cli",
    "lightning_noisy.cli.audit_commands", "lightning_noisy.hf", "lightning_noisy.export.export",
    "lightning_noisy.audit.label_refinement",
    "lightning_noisy.streaming",
)  # fmt: skip


def main(folder: Path) -> None:
    """Starts both servers: one knows the libraries alone, the other, a fork of it, this package too."""
    parent = os.getppid()
    _import_all(LIBRARIES)
    if os.fork():
        serve(folder, ["plain-python"], parent)
    else:
        _import_all(PACKAGE)
        serve(folder, ["lightning-noisy", "python"], os.getppid())


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)


def serve(folder: Path, programs: list[str], parent: int) -> None:
    """Answers until it is killed, or its parent is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a fork ended
    path = str(folder / f"{programs[-1]}.socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        server.settimeout(5)
        for name in programs:
            program = folder / f".{name}"
            program.write_text(CLIENT.format(python=sys.executable, socket=path), encoding="utf-8")
            program.chmod(0o755)
            program.rename(folder / name)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                client, _ = server.accept()
                client.settimeout(None)
                with client:
                    length, streams, *_ = socket.recv_fds(client, 8, 3)
                    if os.fork() == 0:
                        server.close()
                        answer(client, int.from_bytes(length, "big"), streams)
                    for stream in streams:
                        os.close(stream)


def answer(client: socket.socket, length: int, streams: list[int]) -> None:
    """Runs one program in this fork, which ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = json.loads(client.recv(length, socket.MSG_WAITALL))
    for stream, place in zip(streams, range(3), strict=True):
        os.dup2(stream, place)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    random.seed()
    np.random.seed()
    status = 0
    try:
        run(asked["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown(status)
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(str(status).encode())
    os._exit(status)


def run(arguments: list[str]) -> None:
    """What the program does, with its name in front of the arguments."""
    program, *rest = arguments
    if Path(program).name == "lightning-noisy":
        sys.argv = arguments
        from lightning_noisy.cli.start import console_script

        console_script()
        return
    sys.executable = program
    while rest[0] in ("-u", "-B"):
        del rest[0]
    kind, *sys.argv = rest
    extra = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    if kind == "-c":
        sys.path[:0] = ["", *extra]
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.path[:0] = ["", *extra]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [str(Path(kind).absolute().parent), *extra]
        sys.argv = rest
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
