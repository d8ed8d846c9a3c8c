"""CSV: columns, units, bad rows and layouts."""

import re
from pathlib import Path
from typing import Any

import pytest

import trees
from onestage.data import csv, list_splits, load_dataset
from onestage.data.check import check_dataset
from onestage.data.files import read_text
from onestage.data.reader import open_data
from onestage.errors import ConfigError, DataError
from onestage.training.config import TrainConfig
from onestage.training.inputs import read_data

HEADER = "img_name,label,xmin,ymin,xmax,ymax\n"


def read_boxes(tmp_path: Path, text: str) -> list[list[float]]:
    return load_dataset(trees.csv(tmp_path, text)).boxes.tolist()


SIZED = "filename,{},class,xmin,ymin,xmax,ymax\na.png,{},cat,2,3,30,20\na.png,{},dog,10,5,60,40\n"


@pytest.mark.parametrize("names", ["width,height", "img_w,img_h", "Image Width,Image Height"])
@pytest.mark.parametrize("size", ["60,40", "60.0,40.0", "0,0", "-1,-1", ",", "wide,high"])
def test_a_stated_size_of_the_picture_or_none_changes_nothing(names: str, size: str, tmp_path: Path) -> None:
    data = load_dataset(trees.csv(tmp_path, SIZED.format(names, size, size)))
    assert data.boxes.tolist() == [[2, 3, 30, 20], [10, 5, 60, 40]] and not data.problems
    assert data[0].boxes.shape == (2, 4)


@pytest.mark.parametrize("sides", [("28,17", "50,35"), ("29,18", "51,36")])
def test_sizes_of_the_boxes_are_no_sizes_of_the_picture(sides: tuple[str, str], tmp_path: Path) -> None:
    assert load_dataset(trees.csv(tmp_path, SIZED.format("width,height", *sides)))[0].boxes.shape == (2, 4)


@pytest.mark.parametrize("size", ["120,80", "40,60", "61,40"])
def test_a_picture_that_has_not_the_stated_size_is_not_read(size: str, tmp_path: Path) -> None:
    data = load_dataset(trees.csv(tmp_path, SIZED.format("width,height", size, size)), on_bad="skip")
    with pytest.raises(DataError, match="size"):
        data[0]


def test_rows_that_contradict_each_other_about_the_size_are_a_problem(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several sizes"):
        load_dataset(trees.csv(tmp_path, SIZED.format("width,height", "60,40", "600,400")))


@pytest.mark.parametrize(
    "text",
    [
        "img_name,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        "filename,cell_type,xmin,xmax,ymin,ymax\na.png,cat,2,30,3,20\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,cat,2,3,30,20\n",
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,x,cat,1,2,30,3,20\n",
        "Image Path;Class Name;x1;y1;x2;y2\nimages/a.png;cat;2;3;30;20\n",
        "file\tcategory\tleft\ttop\tright\tbottom\na.png\tcat\t2\t3\t30\t20\n",
        '"image","label","x_min","y_min","x_max","y_max"\r\n"a.png","cat","2.0","3.0","30.0","20.0"\r\n\r\n',
        "images/a.png,2,3,30,20,cat\n",
        "\ufeffimage,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        "\n  \nimage,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        "\r\nimages/a.png,2,3,30,20,cat\r\n",
        "sep=,\nimage,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        '"sep=;"\r\nimage;label;xmin;ymin;xmax;ymax\r\na.png;cat;2;3;30;20\r\n',
        "\ufeffSEP=|\n\nimage|label|xmin|ymin|xmax|ymax\na.png|cat|2|3|30|20\n",
        "sep=\t\nimage\tlabel\txmin\tymin\txmax\tymax\na.png\tcat\t2\t3\t30\t20\n",
        "# made by a tool\n#\n\nimage,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        '# a comment with "one quote\nimage,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n',
        "#image,label,xmin,ymin,xmax,ymax\na.png,cat,2,3,30,20\n",
        "# label, then\nsep=;\nimages/a.png;2;3;30;20;cat\n",
        "split,image,label,xmin,ymin,xmax,ymax\ntrain,a.png,cat,2,3,30,20\n",
        "set,image,label,xmin,ymin,xmax,ymax\nfarm 1,a.png,cat,2,3,30,20\n",
    ],
)
def test_forms(text: str, tmp_path: Path) -> None:
    assert read_boxes(tmp_path, text) == [[2, 3, 30, 20]]
    assert load_dataset(tmp_path).classes == ("cat",)
    assert load_dataset(tmp_path / "label.csv").boxes.tolist() == [[2, 3, 30, 20]]


@pytest.mark.parametrize(
    "first",
    [
        "name,label,xmin,ymin,xmax",  # a column is missing
        "image,filename,label,xmin,ymin,xmax,ymax",  # two that could be the picture
        "a.png,1,2,3,30,20",  # no header, and the class could be any column
        "a.png,cat,2,3,30,20",  # no header, and an order that is not known
        "",
    ],
)
def test_columns_that_are_not_understood(first: str, tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"{first}\na.png,cat,2,3,30,20\n" if first else "\n")
    with pytest.raises(DataError, match="columns of this CSV file are not understood") as caught:
        load_dataset(root / "label.csv")
    assert "label.csv" in str(caught.value)
    with pytest.raises(DataError, match=r"no labelled pictures|columns of this CSV file"):
        load_dataset(root)


def test_parts_of_the_picture_become_pixels(tmp_path: Path) -> None:
    data = load_dataset(trees.csv(tmp_path, trees.csv_text(relative=True)))
    assert data.boxes.flatten().tolist() == pytest.approx([2, 3, 30, 20, 10, 5, 60, 40, 0, 0, 15, 10], abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,cat,0.1,0.1,0.5,0.5\nc.png,cat,2,3,30,20\n", "some boxes look like parts"),
        ("a.png,cat,0,0,1,1\n", "could be pixels as well as parts"),
    ],
)
def test_units_that_cannot_be_told(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_boxes(tmp_path, HEADER + rows)
    assert "label.csv:2" in str(caught.value)


def test_one_pixel_boxes_among_others_are_pixels(tmp_path: Path) -> None:
    assert read_boxes(tmp_path, HEADER + "a.png,cat,0,0,1,1\na.png,cat,2,3,30,20\n") == [[0, 0, 1, 1], [2, 3, 30, 20]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,cat,2,3,30", "too few columns; got: 5; expected: at least 6"),
        (",cat,2,3,30,20", "the picture's name is missing"),
        ("a.png,,2,3,30,20", "the label is missing"),
        ("a.png,cat,2,3,,20", "the box is not four numbers"),
        ("a.png,cat,2,3,x,20", "the box is not four numbers"),
        ('a.png,cat,"2,5",3,30,20', "a decimal point, not a comma"),
        ("a.png,cat,2,3,inf,20", "not four finite numbers"),
        ("../a.png,cat,2,3,30,20", "leads outside"),
        ("a.png,cat,2,3,3_0,20", "the box is not four numbers"),
        ("a.png,cat,2,3,٣,20", "the box is not four numbers"),
        (f"{'x' * 100_000},cat,2,3,30,20", "there is no picture"),
        (f"{'x' * 300}/a.png,cat,2,3,30,20", "has no picture at the place"),
        (f"a.png,cat,2,3,{'x' * 100_000},20", "the box is not four numbers"),
        (f"a.png,cat,2,3,{'x' * 200_000},20", "the rest of the file cannot be read"),
        ('a.png,"cat,2,3,30,20', "the rest of the file cannot be read"),
    ],
)
def test_a_bad_row_is_one_problem(row: str, message: str, tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"{HEADER}c.png,dog,1,1,20,20\n{row}\n")
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert "label.csv:3: " in str(caught.value) and message in str(caught.value) and len(str(caught.value)) < 800
    assert load_dataset(root, on_bad="skip").boxes.tolist() == [[1, 1, 20, 20]]


def test_numbers_as_labels_are_ids_sorted_by_value(tmp_path: Path) -> None:
    text = HEADER + "a.png,10,2,3,30,20\nc.png,9,2,3,30,20\n"
    data = load_dataset(trees.csv(tmp_path, text))
    assert data.classes == ("9", "10") and data.category_ids == (9, 10) and data.labels.tolist() == [1, 0]
    with pytest.warns(UserWarning, match="only numbers its classes: 0 is taken for banana$"):
        named = load_dataset(trees.csv(tmp_path, HEADER + "a.png,0,2,3,30,20\n"), classes=["banana"])
    assert named.classes == ("banana",) and named.labels.tolist() == [0]


@pytest.mark.parametrize("names", [["banana"], ["banana", "kiwi", "plum"]])
def test_numbers_count_the_names_given_where_there_are_as_many(names: list[str], tmp_path: Path) -> None:
    root = trees.csv(tmp_path, HEADER + "a.png,0,2,3,30,20\nc.png,1,2,3,30,20\n")
    with pytest.raises(ConfigError, match=r"not as many as the model has\n.*\n  got:      2: 0, 1\n  expected: 0 to .*banana"):
        load_dataset(root, classes=names, on_bad="skip")
    with pytest.warns(UserWarning, match="0 is taken for banana, 1 is taken for kiwi$"):
        assert load_dataset(root, classes=["banana", "kiwi"]).labels.tolist() == [0, 1]


def test_numbers_that_do_not_begin_with_0_are_nobody_s_names(tmp_path: Path) -> None:
    root = trees.csv(tmp_path, HEADER + "a.png,1,2,3,30,20\nc.png,2,2,3,30,20\n")
    with pytest.raises(ConfigError, match=r"got:      2: 1, 2\n  expected: 0 to 1, for banana, kiwi"):
        load_dataset(root, classes=["banana", "kiwi"])


def test_the_book_layout_and_files_named_by_split(tmp_path: Path) -> None:
    for folder in ("bananas_train", "bananas_val"):
        trees.csv(tmp_path / "banana" / folder)
    assert list_splits(tmp_path / "banana") == ("train", "val")
    assert all("bananas_val" in path for path in load_dataset(tmp_path / "banana", split="val").paths)

    trees.csv(tmp_path / "files", file="train.csv")
    trees.csv(tmp_path / "files", HEADER + "c.png,bird,1,1,9,9\n", file="test_labels.csv")
    trees.write(tmp_path / "files/classes.csv", "cat,0\ndog,1\n")
    assert list_splits(tmp_path / "files") == ("train", "test")
    test = load_dataset(tmp_path / "files", split="test")
    assert test.classes == ("bird", "cat", "dog") and len(test) == 1


def test_a_numbered_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.csv(tmp_path, HEADER + "a.png,0,2,3,30,20\nc.png,1,2,3,30,20\n")
    reads: list[Path] = []
    monkeypatch.setattr(csv, "read_text", lambda path: reads.append(path) or read_text(path))
    with pytest.warns(UserWarning, match="only numbers its classes"):
        load_dataset(root, classes=["banana", "kiwi"])
    assert reads == [root / "label.csv"]


LONG = {
    "many names": ",".join(f"column{i}" for i in range(150_000)),
    "one long name": "image,label,xmin,ymin,xmax," + "y" * 200_000,
    "a long quoted name": 'image,label,xmin,ymin,xmax,"' + "y" * 200_000 + '"',
    "many semicolons": ";" * 200_000,
    "right, and many more": HEADER.strip() + "," + ",".join(f"c{i}" for i in range(150_000)),
}


@pytest.mark.parametrize("name", LONG)
def test_a_header_of_any_length_is_refused_in_a_few_words(name: str, tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"{LONG[name]}\na.png,cat,2,3,30,20\n")
    with pytest.raises(DataError, match="columns of this CSV file are not understood") as caught:
        load_dataset(root / "label.csv")
    assert len(str(caught.value)) < 700
    with pytest.raises(DataError, match=r"no labelled pictures|columns of this CSV file"):
        load_dataset(root)


@pytest.mark.parametrize("mark", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85", "\x00"])
def test_only_line_feeds_and_carriage_returns_end_a_row(mark: str, tmp_path: Path) -> None:
    text = f'{HEADER}a.png,big{mark}cat,2,3,30,20\nc.png,"two\nlines",1,1,9,9\n'
    assert load_dataset(trees.csv(tmp_path, text)).classes == tuple(sorted((f"big{mark}cat", "two\nlines")))


@pytest.mark.parametrize("labels", [("-1", "1"), ("7", "7th"), ("9" * 5000, "1"), ("²", "2"), ("٣", "3")])
def test_numbers_that_are_no_ids_are_names(labels: tuple[str, str], tmp_path: Path) -> None:
    root = trees.csv(tmp_path, HEADER + "".join(f"a.png,{label},2,3,30,20\n" for label in labels))
    assert load_dataset(root).category_ids == (0, 1) and set(load_dataset(root).classes) == set(labels)


@pytest.mark.parametrize("lead", ["sep=,\n", "# made by a tool\n", "\n\n", "Exported by a tool\n"])
@pytest.mark.parametrize("other", ["", "val"])
def test_a_file_whose_first_line_is_no_header_is_not_passed_over(lead: str, other: str, tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"{lead}{HEADER}a.png,cat,2,3,30,20\n", file="train.csv")
    if other:
        trees.csv(tmp_path, f"{HEADER}c.png,cat,2,3,30,20\n", file="val.csv")
    if not lead.startswith("Exp"):
        assert load_dataset(root, split="train").boxes.tolist() == [[2, 3, 30, 20]]
    elif other:
        assert [problem.where for problem in open_data(root).unread] == ["train.csv"]
    else:
        with pytest.raises(DataError, match=r"not understood(.|\n)*got: +Exported by a tool"):
            load_dataset(root / "train.csv")


@pytest.mark.parametrize("lead", ["", "sep=,\n", "# a\r\n# b\r\n", "\n \n", "# a\r"])
def test_lines_count_from_the_first_of_the_file(lead: str, tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"{lead}{HEADER}a.png,cat,2,3,30\na.png,cat,2,3,30,20\n")
    with pytest.raises(DataError, match="1 problem") as caught:
        load_dataset(root)
    assert f"label.csv:{len(lead.splitlines()) + 2}: " in str(caught.value)


@pytest.mark.parametrize("column", ["split", "Set", "SUBSET", "usage"])
@pytest.mark.parametrize("words", [("train", "test"), ("TRAIN", "VALIDATION"), ("train", "valid", ""), ("Training", "Testing")])
def test_splits_in_a_column_are_an_error(column: str, words: tuple[str, ...], tmp_path: Path) -> None:
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    root = trees.csv(tmp_path, f"{column},{HEADER}{rows}")
    with pytest.raises(DataError, match="a column of this file divides it into splits"):
        load_dataset(root, on_bad="skip")


UNKNOWN = {
    "holdout": ("Split", ("Training", "Holdout"), "got:      Split: Holdout, Training"),
    "numbers": ("split", ("0", "1"), "in words that are not known"),
    "one row has none": ("subset", ("A", ""), "got:      subset: A, nothing"),
    "FER 2013": ("usage", ("Training", "PublicTest"), "in words that are not known"),
    "folds": ("split", ("train", "val", *(f"fold{i}" for i in range(25))), "in words that are not known"),
    "a split among many": ("set", (*(f"A{i}" for i in range(25)), "val"), "in words that are not known"),
    "perhaps": ("is_valid", ("1", "perhaps"), "in words that are not known"),
    "letters": ("is_train", ("t", "f"), "divides it into splits"),
    "runs": ("split", (*(f"train{i}" for i in range(30)), "val1"), "divides it into splits"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_column_of_splits_whose_words_are_not_known_is_an_error(name: str, tmp_path: Path) -> None:
    column, words, message = UNKNOWN[name]
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    root = trees.csv(tmp_path, f"{column},{HEADER}{rows}")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(root, on_bad="skip")
    assert caught.value.fix


def test_words_of_rows_with_a_bad_box_count(tmp_path: Path) -> None:
    root = trees.csv(tmp_path, f"split,{HEADER}train,a.png,cat,2,3,30,20\ntest,a.png,cat,bad,3,30,20\n")
    with pytest.raises(DataError, match="divides it into splits"):
        load_dataset(root, on_bad="skip")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("split", ("holdout", "Holdout")),
        ("split", ("train", "Training")),
        ("set", tuple(f"A{i}" for i in range(25))),
        ("is_valid", ("perhaps", "perhaps")),
    ],
)
def test_a_column_of_one_word_divides_nothing(column: str, words: tuple[str, ...], tmp_path: Path) -> None:
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    assert len(load_dataset(trees.csv(tmp_path, f"{column},{HEADER}{rows}")).boxes) == len(words)


@pytest.mark.parametrize(
    ("column", "words", "message"),
    [
        ("split", ("train", ""), "divides it into splits"),
        ("split", ("", "val"), "got:      split: nothing, val"),
        ("is_valid", ("True", "False"), "got:      is_valid: False, True"),
        ("is_test", ("0", "1"), "divides it into splits"),
        ("partition", ("train", "val"), "got:      partition: train, val"),
        ("phase", ("train", "test", "Valid"), "divides it into splits"),
        ("phase", ("train", "test", "holdout"), "in words that are not known"),
        ("dataset", ("train", "NA"), "got:      dataset: nothing, train"),
        ("fold", ("test", "test"), "names another split than the file or its folder, which is train"),
        ("kind", ("train", "trainval"), "divides it into splits"),
        ("set", ("val", "val"), "names another split than the file or its folder, which is train"),
        *((name, ("1", "1"), "which is train") for name in ("is_valid", "isval", "is_validation", "is_test")),
        ("is_train", ("0", "0"), "which is train"),
    ],
)
def test_a_column_that_divides_a_file_or_contradicts_its_name(
    column: str, words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    root = trees.csv(tmp_path, f"{column},{HEADER}{rows}", file="train.csv")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(root, on_bad="skip")
    assert caught.value.fix and "train.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "word", "file", "agrees"),
    [
        ("is_valid", "0", "val", False),
        ("is_test", "no", "test", False),
        ("is_train", "yes", "val", False),
        ("is_train", "yes", "test", False),
        ("is_test", "1", "trainval", False),
        ("is_valid", "0", "train", True),
        ("is_valid", "1", "val", True),
        ("is_valid", "1", "test", True),
        ("is_test", "0", "val", True),
        ("is_train", "1", "trainval", True),
        ("is_train", "", "train", True),
        ("is_train", "perhaps", "val", True),
        ("is_valid", "1", "label", True),
    ],
)
def test_a_column_that_holds_rows_out_agrees_with_the_file(
    column: str, word: str, file: str, agrees: bool, tmp_path: Path
) -> None:
    root = trees.csv(tmp_path, f"{column},{HEADER}{word},a.png,cat,2,3,30,20\n", file=f"{file}.csv")
    if agrees:
        assert len(load_dataset(root).boxes) == 1
    else:
        with pytest.raises(DataError, match=f"names another split than the file or its folder, which is {file}"):
            load_dataset(root)


DIVIDING = "phase partition dataset image-set fold stage data_type split_name kind folder".split()  # noqa: SIM905


@pytest.mark.parametrize("words", [("train", "test"), ("Testing", "training", "Train")])
@pytest.mark.parametrize("column", DIVIDING)
def test_a_column_of_any_name_that_divides_a_file_is_an_error(column: str, words: tuple[str, ...], tmp_path: Path) -> None:
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    root = trees.csv(tmp_path, f"{column},{HEADER}{rows}")
    with pytest.raises(DataError, match="a column of this file divides it into splits") as caught:
        load_dataset(root, on_bad="skip")
    assert str(caught.value.got).startswith(f"{column}: ") and "remove the column" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        *(("vehicle", words) for words in (("train", "car"), ("train", ""), ("train", "train"), ("train 1", "val 2"))),
        ("label_type", ("train", "test", "NA")),
        ("dataset", ("coco_train", "flickr")),
        ("fold", ("0", "1")),
        ("stage", ("early", "late")),
        ("phase", ("val", "val")),
    ],
)
def test_other_columns_divide_nothing(column: str, words: tuple[str, ...], tmp_path: Path) -> None:
    rows = "".join(f"{word},a.png,cat,2,3,30,20\n" for word in words)
    assert len(load_dataset(trees.csv(tmp_path, f"{column},{HEADER}{rows}")).boxes) == len(words)


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("filename,label,x,y,w,h\na.png,cat,2,3,28,17", "none for xmin and ymin and xmax", "xmax is left [+] width"),
        (
            "filename,label,xmin,ymin,width,height\na.png,cat,2,3,28,17",
            "none for xmax and ymax",
            "^write the corners of each box",
        ),
        (
            'image_id,width,height,bbox\na,60,40,"[2, 3, 28, 17]"',
            "none for the class and xmin",
            "^call one column label.*; write the cor",
        ),
        ("a.png,2,3,30,20\n", "it has no header", "filename,xmin,ymin,xmax,ymax,label$"),
        ("cat,a.png,2,3,30,20\n", "it has no header", "filename,xmin,ymin,xmax,ymax,label$"),
        ("id,filename,label,xmin,ymin,xmax,ymax,name\n", "several for the class", "^call one column label, that of the class$"),
    ],
)
def test_usual_columns_that_are_not_read_have_a_remedy(text: str, message: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(trees.csv(tmp_path, text))
    assert re.search(fix, str(caught.value.fix))


@pytest.mark.parametrize("column", ["difficult", "ignore", "iscrowd", "IsGroupOf"])
@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("True", "False"), ("yes", ""), ("1.0", "-1"), ("1", "NA"), ("t", "nan")])
def test_columns_that_flag_an_object(column: str, yes: str, no: str, tmp_path: Path) -> None:
    text = f"{column},{HEADER}{yes},a.png,cat,2,3,30,20\n{no},a.png,dog,1,1,9,9\n"
    data = load_dataset(trees.csv(tmp_path, text))
    flagged = data.crowd if "cr" in column or "Gr" in column else data.ignore
    assert flagged.tolist() == [True, False] and int((data.crowd | data.ignore).sum()) == 1 and not data.notes


@pytest.mark.parametrize("column", ["difficult", "is_difficult", "ignore", "iscrowd", "crowd", "IsGroupOf", "group_of"])
@pytest.mark.parametrize("words", [("easy", "hard"), ("0", "3"), ("1", "2"), ("", "0.5"), ("None", "x")])
@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_a_column_of_other_words_flags_nothing_aloud(column: str, words: tuple[str, str], on_bad: Any, tmp_path: Path) -> None:
    rows = "".join(f"a.png,cat,2,3,30,20,{word}\n" for word in words)
    data = load_dataset(trees.csv(tmp_path, f"{HEADER[:-1]},{column}\n{rows}"), on_bad=on_bad)
    assert len(data.boxes) == 2 and not (data.crowd | data.ignore).any() and not data.problems
    notes = "\n".join(map(str, data.notes))
    odd = words[words[0] in FLAGS]
    assert f"not read: {column}\n" in notes and f"the column '{column}' flags no object: '{odd}' in label.csv:" in notes


FLAGS = ("", "0", "1", "None")


@pytest.mark.parametrize("column", ["difficult", "IsCrowd"])
@pytest.mark.parametrize("word", ["perhaps", "2", "0.5"])
def test_an_odd_word_among_flags_is_a_problem_of_its_row(column: str, word: str, tmp_path: Path) -> None:
    words = [*"01" * 5, word]
    root = trees.csv(tmp_path, f"{HEADER[:-1]},{column}\n" + "".join(f"a.png,cat,2,3,30,20,{said}\n" for said in words))
    with pytest.raises(DataError, match="1 problem in this data set") as caught:
        load_dataset(root)
    assert f"label.csv:12: {column} should say yes or no; got: '{word}'; expected: 1 or 0; fix: write" in str(caught.value)
    data = load_dataset(root, on_bad="skip")
    assert (data.ignore | data.crowd).tolist() == [False, True] * 5 and not data.notes


@pytest.mark.parametrize(("train", "val"), [("01", "23"), ("01" * 9, "012"), ("01" * 9, ["easy", "0"])])
def test_all_files_decide_together_about_flags(train: str, val: Any, tmp_path: Path) -> None:
    for file, words in (("train", train), ("val", val)):
        rows = "".join(f"a.png,cat,2,3,30,20,{word}\n" for word in words)
        trees.csv(tmp_path, f"{HEADER[:-1]},difficult\n{rows}", file=f"{file}.csv")
    read = [load_dataset(tmp_path, split=split, on_bad="skip") for split in ("train", "val")]
    if len(train) == 2:
        assert not any(data.ignore.any() or data.problems for data in read)
        assert all("flags no object: '2' in val.csv:2 is" in "".join(map(str, data.notes)) for data in read)
    else:
        assert read[0].ignore.sum() == 9 and [len(data.problems) for data in read] == [0, 1] and not read[1].notes


@pytest.mark.parametrize("bad", ["a.png,cat,2,3,30", "1,a.png,x,big, cat,2,3,30,20"])
def test_a_bad_row_does_not_decide_about_a_column(bad: str, tmp_path: Path) -> None:
    text = f"size,difficult,{HEADER}1,1,a.png,cat,2,3,30,20\n{bad}\n1,0,a.png,dog,1,1,9,9\n"
    data = load_dataset(trees.csv(tmp_path, text), on_bad="skip")
    assert data.ignore.tolist() == [True, False] and len(data.problems) == 1


def test_columns_that_are_not_read_are_named_once(tmp_path: Path) -> None:
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf,IsDepiction,,fold,weight"
    root = trees.csv(tmp_path, f"{header}\n" + "a.png,x,cat,0.1,2,30,3,20,0,1,7,2,0.5\n" * 2)
    said = [
        "label.csv: columns that are not read: Source, Confidence, IsDepiction, fold, weight",
        "label.csv: labels have no score: whatever Confidence says, every one is an object",
    ]
    assert [str(note) for note in load_dataset(root).notes] == said
    assert [str(note) for note in check_dataset(root, fast=True).notes if note.where == "label.csv"] == said
    with pytest.warns(UserWarning) as caught:
        read_data(root, TrainConfig())
    assert [str(warning.message) for warning in caught][:2] == said


def test_columns_that_are_read_are_no_note(tmp_path: Path) -> None:
    text = "filename,width,height,class,xmin,ymin,xmax,ymax,difficult\na.png,60,40,cat,2,3,30,20,0\n"
    assert not load_dataset(trees.csv(tmp_path, text)).notes


def test_a_number_is_one_class_in_every_spelling(tmp_path: Path) -> None:
    rows = [f"a.png,{label},2,3,30,20\n" for label in ("1", "1.0", "01", "2", "10.", "1.000")]
    data = load_dataset(trees.csv(tmp_path, HEADER + "".join(rows)))
    assert data.classes == ("1", "2", "10") and data.category_ids == (1, 2, 10) and data.labels.tolist() == [0, 0, 0, 1, 2, 0]


def test_numbers_in_one_file_and_names_in_another(tmp_path: Path) -> None:
    trees.csv(tmp_path, HEADER + "a.png,1,2,3,30,20\n", file="train.csv")
    root = trees.csv(tmp_path, HEADER + "c.png,cat,2,3,30,20\n", file="val.csv")
    for split in (None, "train", "val"):
        with pytest.raises(DataError, match=r"one file numbers its classes(.|\n)*train.csv: 1; val.csv: cat"):
            load_dataset(root, split=split)
    trees.csv(tmp_path, HEADER + "c.png,cat,2,3,30,20\nc.png,1,2,3,30,20\n", file="val.csv")
    assert load_dataset(root).classes == ("1", "cat")


@pytest.mark.parametrize("header", ["x1,y1,x2,y2,x3,y3,x4,y4", "X_1,Y_1,X_2,Y_2,X_3,Y_3"])
def test_more_than_two_corners_are_no_upright_box(header: str, tmp_path: Path) -> None:
    corners = [2, 3, 30, 6, 30, 20, 2, 17][: header.count(",") + 1]
    root = trees.csv(tmp_path, f"filename,label,{header}\na.png,cat,{','.join(map(str, corners))}\n")
    for path in (root, root / "label.csv"):
        with pytest.raises(DataError, match="more than two corners") as caught:
            load_dataset(path, on_bad="skip")
        assert "smallest upright box" in str(caught.value)


def test_a_file_that_is_no_utf8_says_so_also_if_its_folder_is_named(tmp_path: Path) -> None:
    trees.picture(tmp_path / "\u00e4.png")
    (tmp_path / "label.csv").write_bytes(f"{HEADER}\u00e4.png,cat,2,3,30,20\n".encode("cp1252"))
    with pytest.raises(DataError, match="this file is not UTF-8 text") as caught:
        load_dataset(tmp_path)
    assert "label.csv" in str(caught.value) and "save it as UTF-8" in str(caught.value)
