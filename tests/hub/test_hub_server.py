"""The server against the real client: what is pushed is read back, and each fault looks to the client as on the Hub."""

import json
import time

import pytest

from .hub_server import HubServer
from .processes import run_client

README = "---\nlicense: apache-2.0\n---\n# A model\n"
FILES = {
    "README.md": README.encode(),
    "model.safetensors": bytes(range(256)) * 300,
    "empty.png": b"",
    "a/b c.png": b"p",
}

PUSH = """
from huggingface_hub import HfApi

api = HfApi()
api.create_repo("me/x", exist_ok=True)
commit = api.upload_folder(repo_id="me/x", folder_path=sys.argv[1], commit_message="push")
print(json.dumps(commit.oid))
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    for path, content in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


READ_BACK = """
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

api = HfApi()
api.create_repo("me/data", repo_type="dataset", private=True)
api.upload_file(path_or_fileobj=b"1,2", path_in_repo="t.csv", repo_id="me/data", repo_type="dataset")
one = hf_hub_download("me/x", "model.safetensors")
root = Path(snapshot_download("me/x"))
missing = []
for path, revision in (("none", "main"), ("README.md", "none")):
    try:
        hf_hub_download("me/x", path, revision=revision)
    except (EntryNotFoundError, RevisionNotFoundError) as error:
        missing.append(type(error).__name__)
print(json.dumps({
    "one": Path(one).read_bytes().hex(),
    "tree": {str(p.relative_to(root)): p.read_bytes().hex() for p in root.rglob("*") if p.is_file()},
    "table": Path(hf_hub_download("me/data", "t.csv", repo_type="dataset")).read_text(),
    "missing": missing,
    "user": api.whoami()["name"],
}))
"""


@pytest.mark.parametrize(("lfs", "disable_xet"), [(False, "1"), (True, "1"), (False, "0")])
def test_a_folder_is_read_back_as_it_was_pushed(folder, tmp_path, lfs, disable_xet):
    with HubServer(lfs=lfs) as server:
        first = run_client(server, tmp_path, PUSH, folder, HF_HUB_DISABLE_XET=disable_xet)
        again = run_client(server, tmp_path, PUSH, folder, HF_HUB_DISABLE_XET=disable_xet)
        found = run_client(server, tmp_path, READ_BACK)
    assert first == again == server.commits("me/x")[-1].oid  # the client leaves out files that have not changed
    assert [commit.message for commit in server.commits("me/x")] == ["initial commit", "push"]
    pushed = {path: content for path, content in server.files("me/x").items() if path != ".gitattributes"}
    assert pushed == FILES
    assert {path: bytes.fromhex(content) for path, content in found["tree"].items()} == server.files("me/x")
    assert bytes.fromhex(found["one"]) == FILES["model.safetensors"]
    assert (found["table"], found["user"]) == ("1,2", "me")
    assert found["missing"] == ["RemoteEntryNotFoundError", "RevisionNotFoundError"]
    assert server.repos["datasets/me/data"].private
    assert len(server.asked("lfs")) == (2 if lfs else 0)
    assert [request.status for request in server.asked("create_repo")] == [200, 409, 200]
    for request in server.requests:
        assert request.route != "unknown", request.path
        others = {name: value for name, value in request.headers.items() if name != "authorization"}
        assert server.token not in f"{request.path} {others} {request.body!r}"
        assert request.route == "lfs" or request.headers["authorization"] == f"Bearer {server.token}"


MODEL = """
from pathlib import Path
import timm, torch
from huggingface_hub import HfApi
from timm.models import save_for_hf
from transformers import AutoModelForImageClassification

folder = Path(sys.argv[1])
save_for_hf(timm.create_model("test_vit", pretrained=False, num_classes=3), folder, safe_serialization=True)
config = json.loads((folder / "config.json").read_text())
config["model_args"].pop("num_classes")  # transformers would give it twice
(folder / "config.json").write_text(json.dumps(config))
HfApi().create_repo("me/x")
HfApi().upload_folder(repo_id="me/x", folder_path=folder)
images = torch.rand(2, 3, 160, 160)
with torch.no_grad():
    by_timm = timm.create_model("hf-hub:me/x", pretrained=True).eval()(images)
    by_transformers = AutoModelForImageClassification.from_pretrained("me/x").eval()(images).logits
torch.testing.assert_close(by_timm, by_transformers)
print(json.dumps(by_timm.shape))
"""


@pytest.mark.slow
def test_timm_and_transformers_load_a_pushed_model(tmp_path):
    with HubServer() as server:
        assert run_client(server, tmp_path, MODEL, tmp_path / "model") == [2, 3]
    assert len(server.asked("commit")) == 1
    assert set(server.files("me/x")) == {".gitattributes", "config.json", "model.safetensors"}


STRANGERS = """
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

found = {}
def attempt(name, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except HfHubHTTPError as error:
        found[name] = [error.response.status_code, type(error).__name__, error.response.text]

api, upload = HfApi(), {"path_or_fileobj": b"x", "path_in_repo": "x"}
api.create_repo("me/private", private=True)
api.create_repo("me/public")
api.upload_file(path_or_fileobj=b"x", path_in_repo="secret.txt", repo_id="me/private")
for name, token in (("nobody", False), ("wrong", "hf_wrongtoken")):
    for repo_id in ("me/private", "me/missing"):
        attempt(f"{name} info {repo_id}", api.model_info, repo_id, token=token)
        attempt(f"{name} files {repo_id}", api.list_repo_files, repo_id, token=token)
        attempt(f"{name} refs {repo_id}", api.list_repo_refs, repo_id, token=token)
        attempt(f"{name} file {repo_id}", api.hf_hub_download, repo_id, "secret.txt", token=token)
    attempt(f"{name} writes", api.upload_file, repo_id="me/public", token=token, **upload)
    attempt(f"{name} creates", api.create_repo, "me/new", token=token)
    attempt(f"{name} branches", api.create_branch, "me/public", branch="b", token=token)
attempt("owner info", api.model_info, "me/missing")
attempt("owner writes", api.upload_file, repo_id="me/missing", **upload)
print(json.dumps([found, api.model_info("me/public", token=False).sha]))
"""


def test_a_private_repository_is_hidden_and_writing_needs_the_token(tmp_path):
    with HubServer() as server:
        found, public = run_client(server, tmp_path, STRANGERS)
    assert public == server.commits("me/public")[-1].oid
    assert set(server.repos) == {"me/private", "me/public"}
    assert len(server.commits("me/public")) == 1
    owner = {name: found.pop(name)[:2] for name in list(found) if name.startswith("owner")}
    assert list(owner.values()) == [[404, "RepositoryNotFoundError"]] * 2
    assert len(found) == 2 * 11
    for name, (status, error, text) in found.items():
        assert status == 401, name
        assert "secret" not in text and server.commits("me/private")[-1].oid not in text
        unauthorised = name.startswith("wrong") or name == "nobody creates"
        assert error == ("HfHubHTTPError" if unauthorised else "RepositoryNotFoundError"), name
    for what in ("info", "files", "refs", "file"):
        assert found[f"nobody {what} me/private"] == found[f"nobody {what} me/missing"]


TRY = """
from huggingface_hub import HfApi, hf_hub_download

api, outcomes = HfApi(), []
for step in json.loads(sys.argv[1]):
    try:
        if "download" in step:
            outcomes.append(open(hf_hub_download("me/x", step["download"])).read())
        else:
            data = step.get("text", "y" * 4_000_000).encode()
            path, parent = step["path"], step.get("parent")
            commit = api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id="me/x", parent_commit=parent)
            outcomes.append(commit.oid)
    except Exception as error:
        outcomes.append([type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)])
print(json.dumps(outcomes))
"""


def test_a_broken_commit_leaves_nothing_and_a_stale_parent_is_refused(tmp_path):
    with HubServer() as server:
        run_client(server, tmp_path, 'from huggingface_hub import HfApi; HfApi().create_repo("me/x")')
        root = server.commits("me/x")[0].oid
        server.drop("commit", after_bytes=100_000)
        server.drop("commit")
        server.fail("commit", 503)
        upload = {"path": "big.bin"}
        steps = [upload, upload, upload, upload]  # dropped in the middle, dropped at the end, refused, taken
        steps += [{"path": "late", "parent": root}, {"path": "README.md", "text": "no metadata"}]
        outcomes = run_client(server, tmp_path, TRY, json.dumps(steps))
        server.lose_answer("commit")
        lost = run_client(server, tmp_path, TRY, json.dumps([{"path": "lost", "text": "taken"}]))
    broken = ("WriteError", "ReadError", "RemoteProtocolError")
    assert all(name in broken for name, _ in (*outcomes[:2], *lost))
    taken = server.commits("me/x")[1].oid
    assert outcomes[2:] == [["HfHubHTTPError", 503], taken, ["HfHubHTTPError", 412], ["ValueError", None]]
    assert len(server.asked("commit")[0].body) == 100_000
    assert [request.status for request in server.asked("commit")] == [None, None, 503, 200, 412, None]
    assert [set(commit.files) for commit in server.commits("me/x")[1:]] == [
        {".gitattributes", "big.bin"},
        {".gitattributes", "big.bin", "lost"},
    ]


def test_the_client_retries_what_the_module_says(tmp_path):
    with HubServer() as server:
        run_client(server, tmp_path, 'from huggingface_hub import HfApi; HfApi().create_repo("me/x")')
        server.fail("preupload", 503)
        server.delay("head", 1.5)
        server.drop("resolve", after_bytes=5)
        started = time.monotonic()
        steps = [{"path": "a.txt", "text": "0123456789"}, {"download": "a.txt"}]
        timeouts = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        oid, text = run_client(server, tmp_path, TRY, json.dumps(steps), **timeouts)
        assert time.monotonic() - started < 15
    assert (oid, text) == (server.commits("me/x")[-1].oid, "0123456789")
    assert [len(server.asked(route)) for route in ("preupload", "commit", "head", "resolve")] == [2, 1, 2, 2]
    with pytest.raises(ValueError, match="no route 'upload'"):
        server.fail("upload", 500)


BRANCHES = """
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()
api.create_repo("me/x")
api.create_branch("me/x", branch="dev/two")
api.create_branch("me/x", branch="dev/two", exist_ok=True)
upload = {"path_or_fileobj": b"1", "repo_id": "me/x", "commit_message": "title", "commit_description": "text"}
api.upload_file(path_in_repo="dev.txt", revision="dev/two", **upload)
proposed = api.upload_file(path_in_repo="pr.txt", create_pr=True, **upload)
try:
    api.upload_file(path_in_repo="pr.txt", revision="none", **upload)
except HfHubHTTPError as error:
    missing = type(error).__name__
api.delete_file("dev.txt", "me/x", revision="dev/two")
refs = api.list_repo_refs("me/x", include_pull_requests=True)
print(json.dumps({
    "pr": [proposed.pr_url, proposed.pr_num, proposed.pr_revision],
    "content": open(hf_hub_download("me/x", "pr.txt", revision=proposed.pr_revision)).read(),
    "missing": missing,
    "branches": {ref.name: ref.target_commit for ref in refs.branches + refs.pull_requests},
}))
"""


@pytest.mark.parametrize("disable_xet", ["1", "0"])
def test_branches_and_pull_requests_leave_main_alone(tmp_path, disable_xet):
    with HubServer() as server:
        found = run_client(server, tmp_path, BRANCHES, HF_HUB_DISABLE_XET=disable_xet)
    assert found["pr"] == [f"{server.url}/me/x/discussions/1", 1, "refs/pr/1"]
    assert (found["content"], found["missing"]) == ("1", "RevisionNotFoundError")
    assert found["branches"] == {name: commits[-1].oid for name, commits in server.repos["me/x"].branches.items()}
    assert set(found["branches"]) == {"main", "dev/two", "refs/pr/1"}
    assert set(server.files("me/x", "refs/pr/1")) == {".gitattributes", "pr.txt"}
    commit = server.commits("me/x", "refs/pr/1")[-1]
    assert (commit.message, commit.description) == ("title", "text")
    assert [len(server.commits("me/x", name)) for name in ("main", "dev/two", "refs/pr/1")] == [1, 3, 2]
    assert set(server.files("me/x")) == set(server.files("me/x", "dev/two")) == {".gitattributes"}
