"""Tables as spreadsheets, databases and scripts write them."""

import json
import warnings

import pytest

from lightning_noisy import NoisyImageDataModule
from lightning_noisy.data.readers.text_tables import typed_labels

from ...photos import draw_image


@pytest.fixture
def write(tmp_path):
    """Writes eight images and a table of them, with these labels in turn; ``line`` is the form of each line."""
    for row in range(8):
        (tmp_path / "img").mkdir(exist_ok=True)
        draw_image(row, row).save(tmp_path / "img" / f"{row}.png")

    def table(labels, header="path,label", line="img/{row}.png,{label}", encoding="utf-8", name="labels.csv"):
        lines = [header, *(line.format(row=row, label=labels[row % len(labels)]) for row in range(8))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding=encoding)
        return str(tmp_path / name)

    return table


def read(source, **options):
    """The class names and, of each row, its class's name."""
    data = NoisyImageDataModule(source, val_fraction=0.0, image_size=8, num_workers=0, **options)
    data.setup("fit")
    train = data.splits["train"]
    return data.class_names, [data.class_names[label] for label in train.noisy_labels]


def test_ids_with_gaps_are_the_names_of_classes_in_the_order_of_numbers(write):
    names, labels = read(write(["0", "10", "2", "1"]))
    assert names == ["0", "1", "2", "10"]
    assert labels == ["0", "10", "2", "1"] * 2


def test_numbers_of_another_split_go_by_name_where_classes_are_called_by_numbers(write, tmp_path):
    source = write([30, 10, 20])
    checked = write([20, 30], name="val.csv")
    data = NoisyImageDataModule(source, val_source=checked)
    assert data.class_names == ["10", "20", "30"]
    assert data.splits["val"].noisy_labels.tolist() == [1, 2] * 4
    with pytest.raises(ValueError, match=r"val images of 'val\.csv'.*labelled '2'"):
        _ = NoisyImageDataModule(source, val_source=write([20, 2], name="val.csv")).splits


def test_numbers_are_positions_where_no_class_is_called_by_one(write):
    assert read(write([2, 0, 1]), class_names=["x", "y", "z"])[1][:3] == ["z", "x", "y"]
    assert read(write([2, 0, 1]), class_names=["2", "1", "0"])[1][:3] == ["2", "0", "1"]


def test_a_number_with_leading_zeros_is_a_code(write):
    names, labels = read(write(["007", "7", "010"]))
    assert names == ["007", "010", "7"]
    assert labels[:3] == ["007", "7", "010"]


def test_ids_keep_their_leading_zeros(write):
    source = write(["a", "b"], "path,label,key", "img/{row}.png,{label},00{row}")
    data = NoisyImageDataModule(source, id_column="key", val_fraction=0.0)
    assert data.splits["train"].ids.to_pylist()[:2] == ["000", "001"]


def test_clean_labels_that_pandas_wrote_as_decimal_numbers_with_holes(write):
    source = write(["0,1.0", "1,", "1,NaN", "0,0.0"], "path,label,clean", "img/{row}.png,{label}")
    data = NoisyImageDataModule(source, clean_label_column="clean", val_fraction=0.0)
    assert data.splits["train"].clean_labels.tolist() == [1, -1, -1, 0] * 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", " 2", "NA"], [1, 2, None]),
        (["cat", "NA"], ["cat", "NA"]),
        (["True", "false"], ["true", "false"]),
        (["1.5", "2"], [1.5, 2.0]),
        (["", "NA"], [None, None]),
        (["1", "1e3"], ["1", "1e3"]),
        (["99999999999999999999", "1"], ["99999999999999999999", "1"]),
    ],
)
def test_labels_are_numbers_where_all_are_written_so(labels, expected):
    import pyarrow as pa

    assert typed_labels(pa.array(labels)).to_pylist() == expected


@pytest.mark.parametrize(
    ("header", "line", "name"),
    [
        ("path;label", "img/{row}.png;{label}", "l.csv"),
        ("path\tlabel", "img/{row}.png\t{label}", "l.csv"),
        ("path,label", "img/{row}.png,{label}", "l.tsv"),
        ("path|label", "img/{row}.png|{label}", "l.csv"),
        ("path;label;note, in words", "img/{row}.png;{label};a, b", "l.csv"),
        ('"path";"label"', '"img/{row}.png";"{label}"', "l.csv"),
        ("Path,LABEL", "img/{row}.png,{label}", "l.csv"),
        ("File Name,Noisy-Label", "img/{row}.png,{label}", "l.csv"),
        ("path, label", "img/{row}.png, {label}", "l.csv"),
        ("label, path", "{label}, img/{row}.png", "l.csv"),
    ],
)
def test_columns_are_found_however_they_are_separated_and_written(write, header, line, name):
    assert read(write(["dog", "cat"], header, line, name=name))[0] == ["cat", "dog"]


def test_columns_with_unusual_names_tell_the_separator_too(write):
    source = write(["dog", "cat"], "where|a;what|b", "img/{row}.png|x;{label}|y".replace("|x", "").replace("|y", ""))
    options = {"image_column": "Where|A", "label_column": "what|b"}
    assert read(source, **options)[0] == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"`source` \('labels\.csv'\).*separated by.*first line, 'where\|a;what\|b'"):
        read(source)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_unicode_is_read(write, encoding):
    assert read(write(["café", "茶"], encoding=encoding))[0] == ["café", "茶"]


def test_a_mark_of_utf_8_in_front_of_json(write, tmp_path):
    lines = "\n".join(json.dumps({"path": f"img/{row}.png", "label": "ab"[row % 2]}) for row in range(8))
    (tmp_path / "l.jsonl").write_text(lines, encoding="utf-8-sig")
    assert read(str(tmp_path / "l.jsonl"))[0] == ["a", "b"]
    (tmp_path / "l.jsonl").write_text(lines, encoding="utf-16")
    with pytest.raises(ValueError, match=r"`source` \('l\.jsonl'\).*UTF-16"):
        read(str(tmp_path / "l.jsonl"))


MISTAKES = {
    "Latin-1": (
        {"labels": ["the", "café"], "encoding": "latin-1"},
        r"`source` \('labels\.csv'\).*line 3.*1252.*'img/1\.png,café'",
    ),
    "zero bytes": ({"labels": ["a", "b"], "encoding": "utf-16-le"}, "zero bytes"),
    "one column": ({"labels": ["a"], "header": "path", "line": "img/{row}.png"}, "separated by.*first line, 'path'"),
    "two of a name": ({"labels": ["a,b"], "header": "path,label,label"}, "two are 'label'"),
    "lists": ({"labels": ["['a', 'b']", "c"], "header": "path;label", "line": "img/{row}.png;{label}"}, "multi-label"),
    "a list": ({"labels": ["[1]", "[2]"]}, "multi-label"),
    "URL": ({"labels": ["a", "b"], "line": "https://host/{row}.png,{label}"}, r"row 0 .*URL 'https://host/0\.png'.*'path'"),
    "URLs alone": ({"labels": ["a", "b"], "header": "url,label", "line": "s3://b/{row}.png,{label}"}, "'url'.*Downl"),
    "another disk": ({"labels": ["a", "b"], "line": r"C:\img\{row}.png,{label}"}, r"row 0 has 'C:\\.*path of Windows"),
    "decimal": ({"labels": ["0.5", "1"]}, "whole numbers, but got the type double"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_one_sentence(mistake, write):
    table, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        read(write(**table))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [["a", "b"], [0, 1], [0.5, 0.5]])
def test_lists_of_labels_in_json(write, tmp_path, label):
    rows = [{"path": f"img/{row}.png", "label": label} for row in range(8)]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match="multi-label"):
        read(str(tmp_path / "l.jsonl"))


def test_the_source_itself_is_no_url():
    with pytest.raises(ValueError, match=r"`source`.*URL 'https://host/labels\.csv'.*Download"):
        read("https://host/labels.csv")


def test_paths_from_windows(write, tmp_path):
    source = write(["dog", "cat"], line="img\\{row}.png,{label}")
    data = NoisyImageDataModule(source, val_fraction=0.0)
    assert data.splits["train"].ids.to_pylist()[:2] == ["img/0.png", "img/1.png"]
    draw_image(0, 9).save(tmp_path / "img\\3.png")
    assert NoisyImageDataModule(source, val_fraction=0.0).splits["train"].ids[3].as_py() == "img\\3.png", "it is there"


def test_no_warning_for_a_plain_table(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(write(["dog", "cat"])) == (["cat", "dog"], ["dog", "cat"] * 4)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("photos.zip", "Unpack it first"), ("l.csv.gz", "Unpack it first"), ("l.xlsx", "Save the sheet as CSV"),
     ("train.txt", "first line such as 'path,label'"), ("l.json", "one object a line")],
)  # fmt: skip
def test_files_in_the_place_of_a_table_are_told_how_to_become_one(name, remedy, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"manifest ending in .csv.*but got '{name}'.*{remedy}"):
        read(str(tmp_path / name))


def test_a_table_without_names_of_columns_is_told_so(write):
    with pytest.raises(ValueError, match=r"\['img/9\.png', 'a'\]\. Its first line seems to be an image already"):
        read(write("ab", header="img/9.png,a"))


def test_a_table_none_of_whose_images_is_there(write, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 8 is there, the first of them '0\.png' as '.*/0\.png'\. Paths"):
        read(write("ab", line="{row}.png,{label}"))
    (tmp_path / "img" / "0.png").unlink()
    with pytest.raises(ValueError, match="1 of 8 images can't be decoded"):
        read(write("ab"))
