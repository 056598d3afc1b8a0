"""What is said of a label that is wrong."""

import pytest

from lightning_noisy import NoisyImageDataModule

ROWS_OF_A_TABLE = {
    "label": ({"class_names": ["ant", "bee"]}, r"labels of 'l\.csv'.*row 5 \('ant/02\.png'\) has 'cat'"),
    "no label": ({}, r"row 4 \('bee/01\.png'\) has none, one of 1"),
    "number": ({"class_names": ["ant", "bee"]}, r"in 0\.\.1, but row 5 \('ant/02\.png'\) has 2"),
    "clean label": ({"clean_label_column": "clean"}, r"clean labels of 'l\.csv'.*row 5 \('ant/02\.png'\) has 'cat'"),
    "weight": ({"weight_column": "weight"}, r"row 3 \('ant/01\.png'\) has -1"),
}


@pytest.mark.parametrize("wrong", ROWS_OF_A_TABLE)
def test_a_row_is_named_by_its_place_in_the_table_whatever_comes_before(wrong, photos):
    """Rows 0, 1 and 4 are test images; the clean label of row 3 is not known."""
    options, message = ROWS_OF_A_TABLE[wrong]
    rows = [
        ["ant/00.png", "test", "ant", "ant", 1],
        ["bee/00.png", "test", "bee", "bee", 1],
        ["bee/02.png", "train", "bee", "bee", 1],
        ["ant/01.png", "train", "ant", "", -1 if wrong == "weight" else 1],
        ["bee/01.png", "train" if wrong == "no label" else "test", "" if wrong == "no label" else "bee", "bee", 1],
        ["ant/02.png", "train", "cat" if wrong == "label" else "ant", "cat" if wrong == "clean label" else "ant", 1],
    ]
    if wrong == "number":
        for row in rows:
            row[2] = {"ant": 0, "bee": 1}[row[2]] + 2 * (row[0] == "ant/02.png")
    lines = ["path,split,label,clean,weight", *(",".join(map(str, row)) for row in rows)]
    (photos / "l.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        _ = NoisyImageDataModule(str(photos / "l.csv"), val_fraction=0.0, **options).splits
