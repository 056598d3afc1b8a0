import hashlib
import io
import json
import os
import re
import shutil
from itertools import count

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from huggingface_hub import DatasetCard

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.audit import LabelAudit
from lightning_noisy.audit.cleaning.cleaning import Cleaning
from lightning_noisy.audit.cleaning.dataset_card import render_dataset_card

from ...hub.client import Client
from ...hub.hub_server import HubServer
from ...hub.processes import run_client
from ...photos import draw_image
from ..made import audit_of, hashes, make_audit, write_decisions

PUSH = """
import io, json, sys
from lightning_noisy.audit import LabelAudit

answers, sys.stdout = sys.stdout, io.StringIO()
for line in sys.stdin:
    order = json.loads(line)
    try:
        report = LabelAudit(order.pop("audit")).push_to_hub(**order)
        answer = {"files": report.files, "card": report.card, "url": report.url, "repo_id": report.repo_id}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
"""

READ_BACK = """
import hashlib
sys.modules["lightning_noisy"] = None  # can't be imported
import numpy
from datasets import load_dataset

repo_id, snippet = sys.argv[1:]
exec(snippet)
found = {}
for split, rows in load_dataset(repo_id).items():
    found[split] = {
        row["id"]: [
            rows.features["label"].int2str(row["label"]),
            rows.features["given_label"].int2str(row["given_label"]),
            rows.features["suggested_label"].int2str(row["suggested_label"]),
            round(row["p_given"], 5),
            row["is_issue"],
            hashlib.sha256(numpy.asarray(row["image"].convert("RGB"))).hexdigest(),
        ]
        for row in rows
    }
    names = rows.features["label"].names
print(json.dumps([found, names]))
"""

numbers = count()


@pytest.fixture
def audit(photos, tmp_path):
    """Photos, one with a name that is not UTF-8; one label of a held-out image among those that are wrong."""
    (photos / "ant" / "00.png").rename(photos / "ant" / os.fsdecode(b"caf\xe9.png"))
    data = NoisyImageDataModule(str(photos), noise="pair:0.3", val_fraction=0.2, seed=1)
    return audit_of(tmp_path / "audit", data)


def test_the_given_label_stands_beside_the_cleaned_one(audit, photos):
    before = hashes(photos)
    dataset = audit.to_dataset()
    assert isinstance(dataset.features["image"], datasets.Image)
    for column in ("label", "given_label", "suggested_label"):
        assert dataset.features[column].names == ["ant", "bee", "cat"]
    rows = audit.table.to_pylist()
    assert dataset["id"][:] == [row["id"] for row in rows], "the most suspicious first"
    for row, found in zip(rows, dataset, strict=True):
        clean = row["id"].partition("/")[0]
        assert dataset.features["label"].int2str(found["label"]) == clean
        assert dataset.features["given_label"].int2str(found["given_label"]) == row["given_class"]
        assert found["is_issue"] == (clean != row["given_class"])
        assert (found["split"], found["p_given"]) == (row["split"], pytest.approx(row["p_given"]))
        assert np.array_equal(np.asarray(found["image"]), np.asarray(draw_image(*drawn(row["id"]))))
    assert hashes(photos) == before


def drawn(name):
    """The label and the seed by which the fixture has drawn a photo."""
    kind, _, file = name.partition("/")
    label = ["ant", "bee", "cat"].index(kind)
    return label, 100 * label + (0 if "xe9" in file else int(file.removesuffix(".png")))


def test_policies_and_decisions_are_those_of_the_manifest(audit, tmp_path):
    first, *_, last = audit.table["id"].to_pylist()
    decisions = write_decisions(tmp_path / "decisions.json", audit, {first: "keep", last: "drop"})
    dropped = audit.to_dataset("drop", decisions)
    kept = [row["id"] for row in audit.table.to_pylist() if not row["is_issue"]]
    assert dropped["id"][:] == [first, *kept[:-1]]
    weighed = audit.to_dataset("weight", decisions)
    assert weighed["label"][:] == weighed["given_label"][:]
    assert weighed["label_weight"][0] == 1.0
    assert weighed["label_weight"][1:] == weighed["p_given"][1:]
    write_decisions(decisions, audit, {first: "drop"})
    assert audit.to_dataset("weight", decisions)["id"][0] != first, "the cache is of other decisions"


def test_images_that_are_gone_are_one_sentence(audit, photos):
    shutil.rmtree(photos / "bee")
    with pytest.raises(ValueError, match=r"can't be read any more|have changed since"):
        audit.to_dataset()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A process that pushes."""
    with HubServer() as server:
        client = Client(server, tmp_path_factory.mktemp("home"), PUSH)
        yield client
        client.close()


@pytest.fixture
def repo_id():
    return f"me/cleaned-{next(numbers)}"


def push(client, audit, repo_id, **options):
    return client.ask(audit=str(audit.directory), repo_id=repo_id, license="mit", **options)


def test_a_push_is_one_commit_that_load_dataset_reads(audit, client, repo_id, tmp_path):
    server = client.server
    answer = push(client, audit, repo_id)
    assert answer["repo_id"] == repo_id and repo_id in answer["url"]
    first, commit = server.commits(f"datasets/{repo_id}")
    assert set(first.files) == {".gitattributes"}
    files = {"README.md", "data/train-00000.parquet", "data/validation-00000.parquet"}
    assert set(answer["files"]) == files == set(commit.files) - set(first.files)
    assert commit.files["README.md"].decode() == answer["card"]
    assert all(str(tmp_path).encode() not in content for content in commit.files.values()), "no path of this machine"

    snippet = re.search(r"```python\n(.*?)```", answer["card"], re.DOTALL)[1]
    found, names = run_client(server, tmp_path, READ_BACK, repo_id, snippet)
    assert names == ["ant", "bee", "cat"]
    expected = {"train": {}, "validation": {}}
    for row in audit.table.to_pylist():
        clean = row["id"].partition("/")[0]
        expected["validation" if row["split"] == "val" else "train"][row["id"]] = [
            clean,
            row["given_class"],
            row["suggested_class"],
            round(row["p_given"], 5),
            clean != row["given_class"],
            hashlib.sha256(np.asarray(draw_image(*drawn(row["id"])))).hexdigest(),
        ]
    assert found == expected


def test_the_next_push_replaces_the_last_one(audit, client, repo_id):
    push(client, audit, repo_id)
    commits = client.server.commits(f"datasets/{repo_id}")
    commits[-1].files["data/train-00007.parquet"] = b"of an older, larger push"
    commits[-1].files["notes.txt"] = b"beside it"
    answer = push(client, audit, repo_id, policy="weight", commit_message="Again")
    commits = client.server.commits(f"datasets/{repo_id}")
    assert "`label_weight`" in answer["card"] and commits[-1].message == "Again" and len(commits) == 3
    assert set(commits[-1].files) == {*answer["files"], ".gitattributes", "notes.txt"}


def test_faults_leave_nothing_half_written(audit, client, repo_id):
    client.server.fail("commit", 403)
    answer = push(client, audit, repo_id)
    assert answer["error"] == "PushError" and "write permission" in answer["message"]
    commits = client.server.commits(f"datasets/{repo_id}")
    assert set(commits[-1].files) == {".gitattributes"}
    commits[-1].files["train.csv"] = b"someone's own"
    answer = push(client, audit, repo_id)
    assert answer["error"] == "PushError" and "'train.csv'" in answer["message"]
    commits[-1].files["README.md"] = b"---\nlicense: [\n---\nMine."
    assert push(client, audit, repo_id)["error"] == "PushError"
    assert len(commits) == 1


def test_images_that_vanish_make_no_repository(audit, client, repo_id, photos):
    shutil.rmtree(photos / "bee")
    assert push(client, audit, repo_id)["error"] == "ValueError"
    assert f"datasets/{repo_id}" not in client.server.repos


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`license` to be the licence of the images and their labels.*got None"),
        ({"license": "mit", "policy": "foo"}, "`policy`"),
    ],
)
def test_a_wrong_argument_is_one_sentence(options, message, audit):
    with pytest.raises(ValueError, match=message):
        audit.push_to_hub("me/x", **options)
    with pytest.raises(ValueError, match="`repo_id`"):
        audit.push_to_hub("a b/c", license="mit")


def test_whole_paths_as_ids_say_nothing_of_the_users_folders(photos, tmp_path, client, repo_id):
    lines = [f"{photos}/{kind}/{number:02}.png,{kind}" for kind in ("ant", "bee") for number in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    data = NoisyImageDataModule(str(tmp_path / "list.csv"), clean_label_column="label", val_fraction=0.0)
    audit = audit_of(tmp_path / "audit", data)
    push(client, audit, repo_id)
    content = client.server.files(f"datasets/{repo_id}")["data/train-00000.parquet"]
    ids = pyarrow.parquet.read_table(io.BytesIO(content))["id"].to_pylist()
    assert set(ids) == {f"{kind}/{number:02}.png" for kind in ("ant", "bee") for number in range(12)}


@pytest.mark.slow
def test_hostile_names_do_nothing_on_the_card(tmp_path):
    hostile = [
        "<script>alert(1)</script>",
        "| a | b |",
        "[x](http://x)",
        "\u202eevil",
        "---\nlicense: none",
        "x" * 10_000,
    ]
    for number in range(len(hostile)):
        draw_image(number, number).save(tmp_path / f"{number}.png")
    rows = [{"path": f"{number}.png", "label": name} for number, name in enumerate(hostile)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = NoisyImageDataModule(str(tmp_path / "list.jsonl"), val_fraction=0.0).splits
    labels = splits["train"].noisy_labels
    suggested = {"train": np.roll(labels, 1)}
    audit = make_audit(tmp_path / "audit", splits, suggested, {"train": np.full(len(labels), 0.1)})
    card = render_dataset_card(Cleaning(LabelAudit(audit.directory), "relabel"), "me/cleaned", "mit", "trial")
    assert "<script" not in card and "\u202e" not in card and "x" * 1000 not in card and "](http://x" not in card
    body = card.split("\n---\n", 1)[1]
    assert "license: none" in body and not re.search(r"^license", body, re.MULTILINE)
    data = DatasetCard(card).data
    assert data.license == "mit" and "label-audit" in data.tags and data.size_categories == ["n<1K"]
    tables = [line for line in body.splitlines() if line.startswith("|")]
    widths = {line.replace(r"\|", "").count("|") for line in tables}
    assert widths <= {3, 4, 5}, "no name makes a cell of its own"
    assert 'revision="trial"' in card
