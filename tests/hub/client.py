"""A process that is a client of the test server for many orders: what it imports takes longer than what it does."""

import json
import subprocess
import sys

from .hub_server import TOKEN
from .processes import client_env


class Client:
    """Runs a script that reads orders from its standard input and answers each, in lines of JSON."""

    def __init__(self, server, home, script):
        self.server, self.home = server, home
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=client_env(server, home),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order):
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert TOKEN not in json.dumps(answer), "no token in a message or a log"
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
