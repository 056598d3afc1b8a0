"""A process that has imported everything, and forks for each command of a script: it need not wait for the imports.

    python -m tests.resident SOCKET PROGRAM

PROGRAM is written: it runs as ``lightning-noisy`` does, in a fork of this process.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
asked = json.dumps(dict(arguments=sys.argv, folder=os.getcwd(), environment=dict(os.environ))).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
sys.exit(int(server.recv(8) or b"70"))
"""


def serve(path: str, program: Path) -> None:
    """Answers until it is killed."""

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a fork ended
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        program.write_text(CLIENT.format(python=sys.executable, socket=path), encoding="utf-8")
        program.chmod(0o755)
        while True:
            client, _ = server.accept()
            with client:
                length, streams, *_ = socket.recv_fds(client, 8, 3)
                if os.fork() == 0:
                    server.close()
                    answer(client, int.from_bytes(length, "big"), streams)
                for stream in streams:
                    os.close(stream)


def answer(client: socket.socket, length: int, streams: list[int]) -> None:
    """Runs one command in this fork, which ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = json.loads(client.recv(length, socket.MSG_WAITALL))
    for stream, place in zip(streams, range(3), strict=True):
        os.dup2(stream, place)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["arguments"]
    status = 0
    try:
        from lightning_noisy.cli.lightning_cli import console_script

        console_script()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(ImportError):
        import wandb

        wandb.teardown(status)
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(str(status).encode())
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
