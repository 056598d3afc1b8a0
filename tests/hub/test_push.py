"""Pushes by the real client, in a process of its own, to a server that speaks the Hub's language."""

import json
import math
import re
import threading
import time
from dataclasses import replace
from itertools import count

import pytest
import torch
from huggingface_hub import ModelCard

from lightning_noisy import NoisyImageClassifier
from lightning_noisy.hub import export_clean

from ..export.small import images
from ..hf.small import noisy_vit, tiny_vit
from .client import Client
from .hub_server import TOKEN, HubServer
from .processes import run_client

CLIENT = """
import io, json, logging, sys
import lightning_noisy.hub.commit as commit
import lightning_noisy.hub.push as push

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.DEBUG)
answers, sys.stdout = sys.stdout, log
for line in sys.stdin:
    order = json.loads(line)
    commit.TIMEOUT = order.pop("timeout", 30.0)
    start = log.tell()
    try:
        report = push.push_clean(**order)
        answer = {"repo_id": report.repo_id, "files": report.files, "card": report.card, "url": report.url}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    log.seek(start)
    print(json.dumps({**answer, "log": log.read()}), file=answers, flush=True)
"""

READ_BACK = """
sys.modules["lightning_noisy"] = None  # can't be imported
import timm, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

repo_id, pixels, found = sys.argv[1:]
pixels = torch.load(pixels, weights_only=True)
plain = timm.create_model(f"hf-hub:{repo_id}", pretrained=True).eval()
model = AutoModelForImageClassification.from_pretrained(repo_id)
AutoImageProcessor.from_pretrained(repo_id)
with torch.no_grad():
    torch.save({"timm": plain(pixels), "transformers": model(pixels).logits}, found)
print(json.dumps([plain.pretrained_cfg["label_names"], list(model.config.id2label.values())]))
"""

numbers = count()


class PushClient(Client):
    """A process that pushes what it is told to."""

    def push(self, model, repo_id, license="mit", **options):
        return self.ask(model=str(model), repo_id=repo_id, license=license, **options)


@pytest.fixture(scope="module", params=["regular", pytest.param("lfs", marks=pytest.mark.slow)])
def client(request, tmp_path_factory):
    with HubServer(lfs=request.param == "lfs") as server:
        client = PushClient(server, tmp_path_factory.mktemp("home"), CLIENT)
        yield client
        client.close()


@pytest.fixture(scope="module")
def exported(lightning_checkpoint, tmp_path_factory):
    return export_clean(lightning_checkpoint, tmp_path_factory.mktemp("export") / "clean", license="mit")


@pytest.fixture
def repo_id():
    return f"me/model-{next(numbers)}"


def test_a_push_is_one_commit_that_plain_timm_and_transformers_read(client, lightning_checkpoint, repo_id, tmp_path):
    answer = client.push(lightning_checkpoint, repo_id, metrics={"test/accuracy_clean": 0.5})
    assert answer["repo_id"] == repo_id and repo_id in answer["url"]
    first, commit = client.server.commits(repo_id)
    assert set(first.files) == {".gitattributes"}
    assert set(commit.files) - set(first.files) == set(answer["files"])
    assert {"README.md", "config.json", "model.safetensors", "noise_layer.safetensors"} <= set(answer["files"])
    assert answer["files"] == {name: len(commit.files[name]) for name in answer["files"]}
    card = commit.files["README.md"].decode()
    assert card == answer["card"]
    assert f'create_model("hf-hub:{repo_id}", pretrained=True)' in card
    assert ModelCard(card).data.license == "mit"
    assert all(TOKEN.encode() not in content for content in commit.files.values())
    assert all(TOKEN not in request.path for request in client.server.requests)

    torch.save(images(), tmp_path / "pixels.pt")
    names = run_client(client.server, tmp_path, READ_BACK, repo_id, tmp_path / "pixels.pt", tmp_path / "logits.pt")
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True).eval()
    with torch.no_grad():
        expected = module(images())
    for logits in torch.load(tmp_path / "logits.pt", weights_only=True).values():
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert names == [["ant", "bee", "cat"]] * 2


def test_a_dry_run_sends_nothing(client, lightning_checkpoint, repo_id):
    before = len(client.server.requests)
    answer = client.push(lightning_checkpoint, repo_id, dry_run=True)
    assert len(client.server.requests) == before
    assert repo_id not in client.server.repos
    assert answer["url"] is None
    assert answer["files"]["model.safetensors"] > 100_000
    assert answer["card"].startswith("---\nlib") and f"# {repo_id.removeprefix('me/')}" in answer["card"]


def test_a_readme_in_the_repository_is_kept_unless_asked(client, exported, lightning_checkpoint, repo_id):
    client.push(exported, repo_id)
    first = client.server.files(repo_id)["README.md"]
    answer = client.push(lightning_checkpoint, repo_id, description="another text")
    assert answer["card"] is None and "README.md" not in answer["files"]
    assert client.server.files(repo_id)["README.md"] == first
    answer = client.push(lightning_checkpoint, repo_id, description="another text", overwrite_card=True)
    assert b"another text" in client.server.files(repo_id)["README.md"]


def test_an_exported_folder_is_pushed_as_it_is(client, lightning_checkpoint, repo_id, tmp_path):
    folder = export_clean(lightning_checkpoint, tmp_path / "clean", license="mit")
    card = (folder / "README.md").read_text() + "\nMy own words.\n"
    (folder / "README.md").write_text(card)
    (folder / ".secret").write_text("not to be sent")
    (folder / "last.ckpt").write_text("nor this: it holds more than the model")
    client.push(folder, repo_id)
    assert client.server.files(repo_id)["README.md"].decode() == card
    assert ".secret" not in client.server.files(repo_id) and "last.ckpt" not in client.server.files(repo_id)
    answer = client.push(folder, repo_id, license="apache-2.0")
    assert answer["error"] == "ValueError" and "'mit'" in answer["message"] and "'apache-2.0'" in answer["message"]
    (folder / "README.md").write_text("---\nlicense: [\n---\nMine.")
    answer = client.push(folder, repo_id)
    assert answer["error"] == "ValueError" and "README.md" in answer["message"] and "\n" not in answer["message"]


def test_a_folder_of_the_trainer_with_a_card_of_its_own_is_exported_first(client, repo_id, tmp_path):
    model = noisy_vit()
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [generated_from_trainer]\n---\nby the Trainer")
    client.push(tmp_path, repo_id)
    files = client.server.files(repo_id)
    assert json.loads(files["config.json"])["model_type"] == "vit"
    assert b"by the Trainer" not in files["README.md"]


def test_a_branch_a_pull_request_and_a_private_repository(client, exported, repo_id):
    client.push(exported, repo_id, private=True, revision="trial", commit_message="A trial")
    assert client.server.repos[repo_id].private
    assert client.server.commits(repo_id, "trial")[-1].message == "A trial"
    assert "model.safetensors" not in client.server.files(repo_id, "main")
    answer = client.push(exported, repo_id, create_pr=True)
    assert "discussions/1" in answer["url"]
    assert "model.safetensors" in client.server.files(repo_id, "refs/pr/1")
    assert "model.safetensors" not in client.server.files(repo_id, "main")


def test_a_public_repository_is_not_taken_for_a_private_one(client, exported, repo_id):
    client.push(exported, repo_id)
    commits = len(client.server.commits(repo_id))
    answer = client.push(exported, repo_id, private=True, overwrite_card=True)
    assert answer["error"] == "PushError" and "public already" in answer["message"]
    assert len(client.server.commits(repo_id)) == commits


FAULTS = {
    401: ("create_repo", "401.*hf auth login"),
    403: ("commit", "403.*write permission"),
    404: ("commit", "404.*Check `repo_id`"),
    409: ("commit", "409.*run the same again"),
    412: ("commit", "412.*changed meanwhile"),
    500: ("commit", "having problems .500."),
    503: ("create_repo", "having problems .503."),
}


@pytest.mark.parametrize("status", list(FAULTS))
def test_a_refusal_is_one_sentence_and_the_same_call_works_later(status, client, exported, repo_id):
    route, message = FAULTS[status]
    client.server.fail(route, status, times=math.inf)
    answer = client.push(exported, repo_id)
    client.server.clear_faults()
    assert answer["error"] == "PushError"
    assert "\n" not in answer["message"]
    assert re.search(message, answer["message"]), answer["message"]
    assert repo_id in answer["message"]
    if repo_id in client.server.repos:
        assert set(client.server.files(repo_id)) == {".gitattributes"}, "nothing half-written"
    assert client.push(exported, repo_id)["url"]
    assert len(client.server.commits(repo_id)) == 2


@pytest.mark.parametrize("after_bytes", [None, 5000])
def test_a_connection_that_breaks_in_the_middle_leaves_nothing_half_written(after_bytes, client, exported, repo_id):
    client.server.drop("commit", times=1, after_bytes=after_bytes)
    answer = client.push(exported, repo_id)
    assert answer["error"] == "PushError" and "connection to the Hub broke" in answer["message"]
    assert "\n" not in answer["message"]
    assert set(client.server.files(repo_id)) == {".gitattributes"}
    assert client.push(exported, repo_id)["url"]
    assert len(client.server.commits(repo_id)) == 2


def test_a_lost_answer_does_not_make_two_commits(client, exported, repo_id):
    client.server.lose_answer("commit")
    answer = client.push(exported, repo_id)
    assert answer["error"] == "PushError"
    assert len(client.server.commits(repo_id)) == 2, "the Hub had made it"
    assert client.push(exported, repo_id)["url"]
    assert len(client.server.commits(repo_id)) == 2


def test_a_silent_hub_is_given_up(client, exported, repo_id):
    client.server.delay("commit", seconds=3.0)
    answer = client.push(exported, repo_id, timeout=1.0)
    assert answer["error"] == "PushError" and "ReadTimeout" in answer["message"]


def test_another_commit_in_between_is_noticed(client, exported, repo_id):
    client.push(exported, repo_id)
    server, asked = client.server, len(client.server.asked("commit"))
    history = server.repos[repo_id].branches["main"]

    def someone_else():
        while len(server.asked("commit")) == asked:
            time.sleep(0.01)
        history.append(replace(history[-1], oid="f" * 40, message="by someone else"))

    server.delay("commit", seconds=0.5)
    meddler = threading.Thread(target=someone_else)
    meddler.start()
    (exported / "notes.txt").write_text("new")
    answer = client.push(exported, repo_id)
    meddler.join()
    (exported / "notes.txt").unlink()
    assert answer["error"] == "PushError" and "412" in answer["message"]
    assert [commit.message for commit in history[2:]] == ["by someone else"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"license": None}, "`license`"),
        ({"repo_id": "a b/c"}, "`repo_id`"),
        ({"model": "nowhere.ckpt"}, "'nowhere.ckpt' does not exist"),
    ],
)
def test_a_wrong_argument_asks_the_hub_nothing(options, message, client, exported, repo_id):
    before = len(client.server.requests)
    answer = client.push(**{"model": exported, "repo_id": repo_id, **options})
    assert answer["error"] == "ValueError" and message in answer["message"]
    assert len(client.server.requests) == before


WITHOUT = """
from lightning_noisy.hub import PushError, push_clean
try:
    push_clean(sys.argv[1], "me/none", license="mit")
except PushError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "message"), [({"HF_TOKEN": ""}, "hf auth login"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")]
)
def test_without_a_token_or_offline(env, message, exported, tmp_path):
    with HubServer() as server:
        said = run_client(server, tmp_path, WITHOUT, exported, **env)
    assert message in said and "\n" not in said


AFTERWARDS = """
from transformers import AutoModelForImageClassification
AutoModelForImageClassification.from_pretrained(sys.argv[1]).push_to_hub("me/clean")
"""


@pytest.mark.slow
def test_the_card_survives_a_push_by_transformers(exported, tmp_path):
    with HubServer() as server:
        client = PushClient(server, tmp_path, CLIENT)
        card = client.push(exported, "me/clean")["card"]
        client.close()
        run_client(server, tmp_path, AFTERWARDS, exported)
        kept = ModelCard(server.files("me/clean")["README.md"].decode())
        assert len(server.commits("me/clean")) > 2
    assert kept.text == ModelCard(card).text
    assert kept.data.license == "mit" and kept.data.library_name == "timm"


ON_FROM_THE_HUB = """
import torch
from lightning_noisy import NoisyImageClassifier
from lightning_noisy import models
from lightning_noisy.hf import NoisyForImageClassification

model = NoisyForImageClassification.from_backbone("me/clean", noise="export")
torch.save(model.noise_layer.weight.detach(), "weight.pt")
timm_way = NoisyImageClassifier("timm:hf-hub:me/clean", 3)
said = []
for repo_id, noise in (("me/nothing", None), ("me/plain", "export")):
    try:
        NoisyForImageClassification.from_backbone(repo_id, noise=noise)
    except ValueError as error:
        said.append(str(error))
print(json.dumps([model.run_record.base_model, timm_way.hparams["backbone"]["base_model"], *said]))
"""


@pytest.mark.slow
def test_training_goes_on_from_a_repository_on_the_hub(exported, lightning_checkpoint, tmp_path):
    with HubServer() as server:
        client = PushClient(server, tmp_path, CLIENT)
        client.push(exported, "me/clean")
        plain = export_clean(tiny_vit(), tmp_path / "plain", license="mit")
        client.push(plain, "me/plain")
        client.close()
        *bases, unknown, without = run_client(server, tmp_path, ON_FROM_THE_HUB)
    module = NoisyImageClassifier.load_from_checkpoint(lightning_checkpoint, weights_only=True)
    assert torch.equal(torch.load(tmp_path / "weight.pt", weights_only=True), module.noise_layer.weight)
    assert bases == ["me/clean", "me/clean"]
    assert "'hf:me/nothing' can't be loaded" in unknown and "Check the name" in unknown
    assert "Expected 'me/plain' to hold noise_config.json" in without
