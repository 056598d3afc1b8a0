"""A small Hub on 127.0.0.1 that the real `huggingface_hub` client pushes to and reads back from, with faults on demand.

`HF_ENDPOINT` is read when `huggingface_hub` is imported, so a client runs in a process of its own: see `run_client`.

What the client (huggingface_hub 2.4) retries by itself, before its caller sees a fault:

- `preupload`, `lfs_batch`, `lfs` and `tree`: 408, 429, 500, 502, 503, 504, time-outs and broken connections are tried
  six times in all, after 1, 2, 4, 8 and 8 seconds. The `Retry-After: 0` that `fail` sends makes each wait one second;
  nothing shortens the waits after `drop`.
- `head`: one try; after a time-out or one of these statuses the file comes from the cache, or, where it is not there,
  six more tries follow. A connection that breaks is an error at once, whatever the cache has.
- `resolve` (the download): goes on up to five times, one second apart, when the connection breaks or times out.
  408 and 429 are tried six times, other statuses once.
- all other routes: once. But where `hf_xet` is in use (`HF_HUB_DISABLE_XET` not set), `upload_folder` sends its commit
  with six tries, may split it into several commits and opens a pull request by another route, which is not here.

`HF_HUB_ETAG_TIMEOUT` (`head`) and `HF_HUB_DOWNLOAD_TIMEOUT` (`resolve`), in whole seconds, limit how long the client
waits for an answer; for the other routes it waits without end.
"""

import hashlib
import json
import re
import sys
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from .hub_messages import Answer, Commit, Fault, HubError, Repo, Request

USER = "me"
TOKEN = "hf_testtokenofthetestserver"

_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_GIT = r"/((?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>[^/]+)"
ROUTES = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create_repo": ("POST", r"/api/repos/create"),
    "validate_yaml": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", f"{_API}/preupload{_REVISION}"),
    "commit": ("POST", f"{_API}/commit{_REVISION}"),
    "branch": ("POST", f"{_API}/branch{_REVISION}"),
    "refs": ("GET", f"{_API}/refs"),
    "tree": ("GET", f"{_API}/tree{_REVISION}(/(?P<path>.+))?"),
    "info": ("GET", f"{_API}(/revision{_REVISION})?"),
    "lfs_batch": ("POST", _GIT + r"\.git/info/lfs/objects/batch"),
    "lfs": ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    "head": ("HEAD", f"{_GIT}/resolve{_REVISION}/(?P<path>.+)"),
    "resolve": ("GET", f"{_GIT}/resolve{_REVISION}/(?P<path>.+)"),
}


class HubServer:
    """The server, as a context manager.

    Args:
        lfs: Whether safetensors and PNG files go through LFS; otherwise all files are in the commit's body.
        token: The one token that is valid; it reads and writes everything.
    """

    def __init__(self, lfs: bool = False, token: str = TOKEN) -> None:
        self.lfs = lfs
        self.token = token
        self.repos: dict[str, Repo] = {}  # by "me/x" or "datasets/me/x"
        self.requests: list[Request] = []
        self._blobs: dict[str, bytes | None] = {}  # LFS content by its SHA-256; None: announced, not yet there
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._listener = _Listener(("127.0.0.1", 0), _Handler)
        self._listener.hub = self
        self.url = f"http://127.0.0.1:{self._listener.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """The commits, the oldest first; as on the Hub, creating the repository makes one with `.gitattributes`."""
        return self.repos[repo_id].history(revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """All files at the revision."""
        return dict(self.commits(repo_id, revision)[-1].files)

    def asked(self, route: str) -> list[Request]:
        """The requests to one route."""
        return [request for request in self.requests if request.route == route]

    def fail(
        self, route: str, status: int, times: float = 1, error_code: str | None = None, message: str | None = None
    ) -> None:
        """Answer with an error; the request takes no effect."""
        error = HubError(status, message or f"The server was told to answer {status}", error_code, Retry_After="0")
        self._add_fault(route, times, answer=error.answer)

    def drop(self, route: str, times: float = 1, after_bytes: int | None = None) -> None:
        """Close the connection without an answer and without effect.

        With `after_bytes` only so many bytes of an upload are read; a download stops after so many bytes of the file.
        """
        if after_bytes and ROUTES[route][0] == "GET":
            self._add_fault(route, times, sends=after_bytes)
        else:
            self._add_fault(route, times, reads=after_bytes, runs=False)

    def clear_faults(self) -> None:
        """Do everything right from now on."""
        with self._lock:
            self._faults.clear()

    def lose_answer(self, route: str, times: float = 1) -> None:
        """Close the connection without an answer after the request has taken effect."""
        self._add_fault(route, times, sends=0)

    def delay(self, route: str, seconds: float, times: float = 1) -> None:
        """Wait before the request is read and answered."""
        self._add_fault(route, times, seconds=seconds)

    def _add_fault(self, route: str, times: float, **what: Any) -> None:
        if route not in ROUTES:
            raise ValueError(f"no route {route!r}; choose from {', '.join(ROUTES)}")
        self._faults.append(Fault(route, times, **what))

    def take_fault(self, route: str) -> Fault:
        """The fault that the next request to the route meets; an empty one where none is left."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.route == route and fault.times > 0), Fault(route))
            fault.times -= 1
            return fault

    def answer(self, request: Request) -> Answer:
        """Let the request take effect; one at a time, and a refused one changes nothing."""
        try:
            if request.token not in (None, self.token):
                raise HubError(401, "Invalid credentials in Authorization header")
            if request.route not in ROUTES:
                raise HubError(404, f"This server does not know {request.method} {request.path}")
            with self._lock:
                return getattr(self, f"_{request.route}")(request)
        except HubError as error:
            return error.answer
        except (ValueError, LookupError, TypeError) as error:
            return HubError(400, f"Malformed request: {error!r}").answer

    def _repo(self, request: Request, write: bool = False) -> Repo:
        """The request's repository, where its token allows; to a stranger a private one looks like a missing one."""
        repo = self.repos.get(request.repo_key)
        if request.token is None and (write or repo is None or repo.private):
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def _is_lfs(self, path: str, size: int) -> bool:
        return self.lfs and path.endswith((".safetensors", ".png")) and size > 0

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        """A file as the tree lists it; the client compares the oid with its own file's to skip unchanged ones."""
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid}
        if self._is_lfs(path, len(content)):
            entry["oid"] = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
        return entry

    def _whoami(self, request: Request) -> Answer:
        if request.token is None:
            raise HubError(401, "Invalid username or password.")
        return Answer({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _create_repo(self, request: Request) -> Answer:
        self._whoami(request)
        asked = json.loads(request.body)
        kind = asked.get("type") or "model"
        request.params |= {"id": f"{asked.get('organization') or USER}/{asked['name']}", "kind": f"{kind}s"}
        url = f"{self.url}/{request.repo_key}"
        if request.repo_key in self.repos:
            return Answer({"error": f"You already created this {kind} repo", "url": url}, 409)
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        first = Commit(hashlib.sha1(url.encode()).hexdigest(), "initial commit", "", files)
        self.repos[request.repo_key] = Repo(asked.get("visibility") == "private", {"main": [first]})
        return Answer({"url": url, "name": request.params["id"]})

    def _validate_yaml(self, request: Request) -> Answer:
        """Stricter than the Hub, which takes a README without metadata and a missing licence with a warning."""
        matter = re.match(r"---\n(.*?)\n---", json.loads(request.body)["content"].replace("\r\n", "\n"), re.DOTALL)
        keys = re.findall(r"^([\w-]+):(?: |$)", matter[1], re.MULTILINE) if matter else []
        errors = [] if "license" in keys else [{"message": '"license" is required'}]
        if not keys or (matter and "\t" in matter[1]):
            errors = [{"message": "the front matter is missing or not a mapping"}]
        return Answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, request: Request) -> Answer:
        files = self._repo(request, write=True).history(request.params["revision"])[-1].files
        answers = []
        for path, size in ((asked["path"], asked["size"]) for asked in json.loads(request.body)["files"]):
            mode = "lfs" if self._is_lfs(path, size) else "regular"
            oid = self._entry(path, files[path])["oid"] if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": answers})

    def _lfs_batch(self, request: Request) -> Answer:
        self._repo(request, write=True)
        answers = []
        for oid, size in ((asked["oid"], asked["size"]) for asked in json.loads(request.body)["objects"]):
            missing = self._blobs.setdefault(oid, None) is None
            actions = {"actions": {"upload": {"href": f"{self.url}/lfs/{oid}"}}} if missing else {}
            answers.append({"oid": oid, "size": size} | actions)
        return Answer({"transfer": "basic", "objects": answers})

    def _lfs(self, request: Request) -> Answer:
        """The client sends no token here: the Hub's address is signed, this one must have been announced."""
        oid = request.params["oid"]
        if oid not in self._blobs or hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(403, "The content was not announced")
        self._blobs[oid] = request.body
        return Answer(b"")

    def _commit(self, request: Request) -> Answer:
        repo, branch = self._repo(request, write=True), request.params["revision"]
        history = repo.history(branch)
        header, *operations = (json.loads(line) for line in request.body.splitlines())
        parent, expected = history[-1], header["value"].get("parentCommit") or ""
        if not parent.oid.startswith(expected):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for operation in operations:
            self._apply(files, operation["key"], operation["value"])
        oid = hashlib.sha1(parent.oid.encode() + request.body).hexdigest()
        answer = {"commitOid": oid, "commitUrl": f"{self.url}/{request.repo_key}/commit/{oid}"}
        if "create_pr=1" in request.path:
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
            branch = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.url}/{request.repo_key}/discussions/{number}"
        commit = Commit(oid, header["value"]["summary"], header["value"]["description"], files)
        repo.branches[branch] = [*history, commit]
        return Answer(answer)

    def _apply(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        """Apply one line of a commit to the tree."""
        path = value["path"]
        if key == "file":
            files[path] = b64decode(value["content"])
        elif key == "lfsFile" and (content := self._blobs.get(value["oid"])) is not None:
            files[path] = content
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"Not a known operation, or its LFS object was not uploaded: {key} {path}")

    def _branch(self, request: Request) -> Answer:
        repo, name = self._repo(request, write=True), request.params["revision"]
        if name in repo.branches:
            raise HubError(409, f"Reference already exists: {name}")
        repo.branches[name] = list(repo.history(json.loads(request.body).get("startingPoint", "main")))
        return Answer({"success": True})

    def _refs(self, request: Request) -> Answer:
        refs: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for name, commits in self._repo(request).branches.items():
            kind, ref = ("pullRequests", name) if name.startswith("refs/pr/") else ("branches", f"refs/heads/{name}")
            refs[kind].append({"name": name, "ref": ref, "targetCommit": commits[-1].oid})
        return Answer(refs)

    def _tree(self, request: Request) -> Answer:
        """All files and folders under the path, also where the client did not ask for what is in sub-folders."""
        folder = request.params["path"] + "/" if "path" in request.params else ""
        files = self._repo(request).history(request.params["revision"])[-1].files
        entries = [self._entry(path, content) for path, content in files.items() if path.startswith(folder)]
        if not entries:
            raise HubError(404, "Entry not found", "EntryNotFound")
        folders = {parent.as_posix() for entry in entries for parent in PurePosixPath(entry["path"]).parents[:-1]}
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        return Answer(entries)

    def _info(self, request: Request) -> Answer:
        repo = self._repo(request)
        commit = repo.history(request.params.get("revision", "main"))[-1]
        siblings = [{"rfilename": path, "size": len(content)} for path, content in commit.files.items()]
        answer = {"id": request.params["id"], "sha": commit.oid, "private": repo.private, "siblings": siblings}
        return Answer(answer | {"author": request.params["id"].split("/")[0], "gated": False, "tags": []})

    def _resolve(self, request: Request) -> Answer:
        commit, path = self._repo(request).history(request.params["revision"])[-1], request.params["path"]
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        etag = self._entry(path, commit.files[path])["oid"]
        return Answer(commit.files[path], 200, {"X-Repo-Commit": commit.oid, "ETag": f'"{etag}"'})

    _head = _resolve


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go away at any time; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        hub, request = self.server.hub, self._read_head()
        hub.requests.append(request)
        fault = hub.take_fault(request.route)
        time.sleep(fault.seconds)
        length = int(self.headers.get("Content-Length", 0))
        request.body = self.rfile.read(length if fault.reads is None else min(length, fault.reads))
        broken = not fault.runs or len(request.body) < length
        self.close_connection = broken or fault.sends is not None
        answer = None if broken else fault.answer or hub.answer(request)
        if answer and fault.sends != 0:
            request.status = answer.status
            self._send(answer, fault.sends)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _read_head(self) -> Request:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        for route, (method, pattern) in ROUTES.items():
            if method == self.command and (match := re.fullmatch(pattern, path)):
                params = {name: unquote(value) for name, value in match.groupdict().items() if value}
                return Request(route, self.command, self.path, headers, params)
        return Request("unknown", self.command, self.path, headers, {})

    def _send(self, answer: Answer, only: int | None) -> None:
        is_json = not isinstance(answer.body, bytes)
        body = json.dumps(answer.body).encode() if is_json else answer.body
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json" if is_json else "application/octet-stream"}
        for name, value in (headers | {"Content-Length": str(len(body))} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:only])

    def log_message(self, *args: Any) -> None:
        """Say nothing: `HubServer.requests` has it all."""
