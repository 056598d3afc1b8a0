import json

import pytest

from lightning_noisy.audit.cleaning.decisions import read_decisions


def write(path, **changes):
    content = {"format": 1, "audit_id": "a1", "decisions": [{"id": "x.jpg", "decision": "accept"}]} | changes
    path.write_text(json.dumps(content))
    return path


def test_decisions_are_read_as_the_page_writes_them(tmp_path):
    entries = [{"id": f"{word}.jpg", "decision": word} for word in ("accept", "keep", "drop", "unsure")]
    path = write(tmp_path / "d.json", decisions=[*entries, {"id": "ż/é.jpg", "decision": "keep", "note": "more"}])
    assert read_decisions(path, "a1") == {f"{word}.jpg": word for word in ("accept", "keep", "drop", "unsure")} | {
        "ż/é.jpg": "keep"
    }
    assert read_decisions(write(path, decisions=[]), "a1") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit_id": "another"}, "about this audit .'a1'., but they are about 'another'"),
        ({"audit_id": None}, "about None"),
        ({"format": 2}, "`format` 1, but got"),
        ({"decisions": {"x.jpg": "accept"}}, "a list `decisions`"),
        ({"decisions": ["x.jpg"]}, "an `id` and a `decision`, but got 'x.jpg'"),
        ({"decisions": [{"id": 3, "decision": "keep"}]}, "an `id` and a `decision`"),
        ({"decisions": [{"id": "x.jpg", "decision": "acept"}]}, "'accept', 'keep'.*but got 'acept' for 'x.jpg'"),
        (
            {"decisions": [{"id": "x.jpg", "decision": "keep"}] * 2},
            "one decision for each image, but got 'x.jpg' twice",
        ),
    ],
)
def test_wrong_decisions_are_one_sentence(changes, message, tmp_path):
    path = write(tmp_path / "decisions.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_decisions(path, "a1")
    assert "decisions.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff\xfe", b"[" * 100_000, b"NaN", b'"text"'])
def test_broken_files_are_one_sentence(content, tmp_path):
    path = tmp_path / "decisions.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected the decisions '.*decisions.json' to") as error:
        read_decisions(path, "a1")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"`decisions`.*'.*nowhere.json' does not exist"):
        read_decisions(tmp_path / "nowhere.json", "a1")
