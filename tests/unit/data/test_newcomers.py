"""Usual mistakes in a first data set: what the message says, and that ``data check`` and ``train`` say the same."""

import json
import re
from pathlib import Path

import pytest

import trees
from layouts import build, voc
from onestage.data import load_dataset
from onestage.data.check import check_dataset
from onestage.data.dataset import NO_VALIDATION, Problem
from onestage.data.reader import open_data
from onestage.errors import OnestageError
from onestage.training.config import TrainConfig
from onestage.training.inputs import read_data

YOLO = "train/images/a.jpg\ntrain/labels/a.txt\nval/images/b.jpg\nval/labels/b.txt\n"
NAMES = "names: [cat]"
CSV = "picture_name,x1,y1,x2,y2"

WRONG = {
    "a misspelt split": (YOLO + f"data.yaml    trian: train/images; val: val/images; {NAMES}", "'trian'.*'train'"),
    "the only split misspelt": (YOLO + f"data.yaml    trian: train/images; {NAMES}", "did you mean 'train'"),
    "a longer name of a split": (YOLO + f"data.yaml    train_images: train/images; val: val/images; {NAMES}", "'train'"),
    "misspelt names": (YOLO + "data.yaml    train: train/images; val: val/images; nmaes: [cat]", "'names'"),
    "a misspelt path": (YOLO + f"data.yaml    pahth: .; train: train/images; {NAMES}", "'path'"),
    "too few names": (YOLO + f"data.yaml    train: train/images; nc: 3; {NAMES}", "1 names: cat\n  fix: +write nc: 1"),
    "a class twice": (YOLO + "data.yaml    train: train/images; names: [cat, cat]", "fix: +give the classes different"),
    "bad YAML": (YOLO + "data.yaml    train: train/images; names: [a, b; nc: 2", r"line 3, column 3\n +nc: 2\n +\^\n"),
    "a YAML key twice": (YOLO + f"data.yaml    train: train/images; {NAMES}; {NAMES}", r"line 3, column 1\n.*\n +\^\n"),
    "commas in a line": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0,0.5,0.5,0.2,0.2", "write 0 0.5 0.5 0.2 0.2"),
    "commas and blanks": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0, 0.5, 0.5, 0.2, 0.2", "YOLO has blanks"),
    "semicolons": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0;0.5;0.5;0.2;0.2", "semicolons separate"),
    "decimal commas": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0 0,5 0,5 0,2 0,2", "write 0 0.5 0.5 0.2 0.2"),
    "a picture on a list that is not there": (
        "images/a.jpg\nlabels/a.txt\nclasses.txt    cat\ntrain.txt    images/a.jpg; images/z.jpg",
        "train.txt:2: there is no picture 'images/z.jpg'",
    ),
    "an XML file on a list that is not there": (
        "JPEGImages/a.jpg\nAnnotations/a.xml\nImageSets/Main/train.txt    a; z",
        "ImageSets/Main/train.txt:2: .* Annotations/z.xml; fix: put the file into Annotations/",
    ),
    "a pattern": (
        YOLO + f"data.yaml    train: train/images/*.jpg; val: val/images; {NAMES}",
        "write the folder alone: train/images$",
    ),
    "labels of a tracker": (YOLO + "classes.txt    cat\ntrain/labels/a.txt    0 0.5 0.5 0.2 0.2 0.9 3", "output of a tracker"),
    "labels with a score": (
        YOLO + "classes.txt    cat\ntrain/labels/a.txt    0 0.5 0.5 0.2 0.2 0.9",
        "remove the sixth column",
    ),
    "no column for the class": (f"all.csv    {CSV}; a.jpg,2,3,30,20\na.jpg", "none for the picture and the class"),
    "a value too much": (
        f"all.csv    filename,{CSV[13:]},class; a.jpg,2,3,30,20,cat,dog; b.jpg,2,3,30,20,cat\na.jpg\nb.jpg",
        "all.csv:2: too many values; got: 7; expected: 6",
    ),
    "splits that cannot be told": (
        "a.json    a.jpg\nb.json    b.jpg\na.jpg\nb.jpg",
        "fix: +call them, or their folders, train",
    ),
    "two places": (
        YOLO + f"data.yaml    path: sub; train: train/images; {NAMES}\nsub/train/images/c.jpg\nsub/train/labels/c.txt",
        "sub/train/images, train/images",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_usual_mistake_is_named_with_its_place_and_remedy(name: str, tmp_path: Path) -> None:
    tree, words = WRONG[name]
    root = build(tmp_path, tree)
    with pytest.raises(OnestageError, match=words) as caught:
        read_data(root, TrainConfig())
    assert caught.value.fix and caught.value.where
    try:
        said = "\n".join(map(str, check_dataset(root, fast=True).problems))
    except OnestageError as error:
        assert str(error) == str(caught.value)
    else:
        assert all(line.strip() in said for line in str(caught.value.got).splitlines())


@pytest.mark.parametrize(
    "said",
    ["path: sub; train: train/images; val: val/images", "path: sub; train: train/images; val: val.txt"],
)
def test_each_split_is_found_below_path_or_beside_the_file(said: str, tmp_path: Path) -> None:
    tree = f"data.yaml    {said}; {NAMES}\nsub/train/images/a.jpg\nsub/train/labels/a.txt\nval/images/b.jpg\nval/labels/b.txt\n"
    root = build(tmp_path, tree + "val.txt    val/images/b.jpg")
    assert [len(load_dataset(root, split=split)) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize(
    "key", ["author: x", "notes: y", "minival: z", "kpt_names: [a]", "train_size: 0.8", "image: d", "nc: 1"]
)
def test_other_keys_of_data_yaml_are_no_mistake(key: str, tmp_path: Path) -> None:
    root = build(tmp_path, YOLO + f"data.yaml    train: train/images; val: val/images; {NAMES}; {key}")
    assert open_data(root).splits == ("train", "val")


@pytest.mark.parametrize("name", ["images/a.jpg", "labels/a.txt", "classes.txt"])
def test_a_file_that_is_no_annotation_file_leads_to_the_folder(name: str, tmp_path: Path) -> None:
    root = build(tmp_path, "images/a.jpg\nlabels/a.txt\nclasses.txt    cat")
    with pytest.raises(OnestageError, match="no labelled pictures were recognised by this file") as caught:
        read_data(root / name, TrainConfig())
    assert caught.value.where == root / name and str(caught.value.fix).endswith(f": {root}")


FOREIGN = {
    "VGG Image Annotator": (
        "via.json",
        '{"a.jpg1": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}}',
    ),
    "Label Studio": ("task.json", '{"id": 1, "annotations": [{"result": [{"type": "rectanglelabels"}], "completed_by": 1}]}'),
    "Supervisely": ("ann/a.jpg.json", '{"tags": [], "objects": [{"classTitle": "cat", "geometryType": "rectangle"}]}'),
    "Labelbox": ("export.ndjson", '{"data_row": {"external_id": "a.jpg"}, "projects": {}}'),
    "CreateML": ("a.json", '[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]'),
    "CVAT": ("annotations.xml", '<?xml version="1.0"?>\n<annotations><image id="0" name="a.jpg"></image></annotations>'),
    "KITTI": ("a.txt", "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"),
    "DOTA": ("a.txt", "imagesource:GoogleEarth\ngsd:0.1\n2 3 30 3 30 20 2 20 small-vehicle 0"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_format_that_is_not_read_is_named(name: str, tmp_path: Path) -> None:
    file, text = FOREIGN[name]
    root = build(tmp_path, "a.jpg")
    trees.write(root / file, text)
    with pytest.raises(OnestageError, match=f"these annotations are {name}'s") as caught:
        read_data(root, TrainConfig())
    assert caught.value.got == file and str(caught.value.fix).startswith("export them as COCO")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    tree = "train.txt    images/é.jpg\nval.txt    images/b.jpg\nclasses.txt    größe\nimages/é.jpg\nimages/b.jpg"
    opened = open_data(build(tmp_path, f"{tree}\nlabels/é.txt\nlabels/b.txt", encoding))
    assert opened.splits == ("train", "val") and opened.load("train").classes == ("größe",)
    assert len(opened.load("train").boxes) == 1


@pytest.mark.parametrize("stated", ['"{}"', "'{}'", ' "{}" '])
def test_quotes_around_the_names_of_a_list(stated: str, tmp_path: Path) -> None:
    names = [stated.format(name) for name in ("images/a.jpg", "images/b.jpg")]
    tree = f"train.txt    {names[0]}\nval.txt    {names[1]}\nimages/a.jpg\nimages/b.jpg\nlabels/a.txt\nlabels/b.txt"
    assert [len(load_dataset(build(tmp_path / "yolo", tree + "\nclasses.txt    cat"), split=s)) for s in ("train", "val")] == [
        1,
        1,
    ]
    voc = f"ImageSets/Main/train.txt    {stated.format('a')}\nAnnotations/a.xml\nJPEGImages/a.jpg"
    assert len(load_dataset(build(tmp_path / "voc", voc), split="train").boxes) == 1


@pytest.mark.parametrize("folders", [("", ""), ("images/", "labels/"), ("train/images/", "train/labels/")])
@pytest.mark.parametrize("suffix", ["txt", "xml"])
def test_annotations_named_after_the_whole_name_of_a_picture(folders: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    images, labels = folders
    tree = f"{images}a.jpg\n{labels}a.jpg.{suffix}    \n{images}b.jpg\n{labels}b.{suffix}"
    root = build(tmp_path, tree.replace(".xml    ", ".xml    none.jpg") + "\nclasses.txt    cat")
    report = check_dataset(root, fast=True)
    assert (report.pictures, report.objects, report.problems) == (2, 2, ())
    trees.write(root / f"{labels}a.{suffix}", (root / f"{labels}b.{suffix}").read_text())
    assert check_dataset(root, fast=True).problems  # which of the two files is it?


def test_an_xml_file_of_something_else_is_passed_over_aloud(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    trees.write(root / "project.xml", '<?xml version="1.0"?>\n<!-- by a tool -->\n<project><name>x</name></project>')
    report = check_dataset(root, fast=True)
    assert not report.problems and [note.got for note in report.notes if note.where == "project.xml"] == ["<project>"]
    trees.write(root / "b.xml", "<annotations/>")
    assert [problem.where for problem in check_dataset(root, fast=True).problems] == ["b.xml"]


@pytest.mark.parametrize(("encoding", "name"), [("gbk", "猫狗"), ("Shift_JIS", "犬"), ("euc-kr", "고양이"), ("big5", "貓")])
def test_voc_in_an_encoding_that_it_declares(encoding: str, name: str, tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg")
    text = voc("a.jpg").replace("cat", name)
    (root / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding))
    assert load_dataset(root).classes == (name,)
    (root / "a.xml").write_bytes(text.encode(encoding) + b"\xff")
    with pytest.raises(OnestageError, match="name its encoding in the first line"):
        load_dataset(root)


@pytest.mark.parametrize(("said", "flagged"), [("False", False), ("true", True), ("Unspecified", False), ("1.0", True)])
def test_words_for_difficult(said: str, flagged: bool, tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml")
    trees.write(root / "a.xml", (root / "a.xml").read_text().replace("</name>", f"</name><difficult>{said}</difficult>"))
    assert load_dataset(root).ignore.tolist() == [flagged]


@pytest.mark.parametrize("folder", ["dev", "Abnahme", "Prüfung"])
@pytest.mark.parametrize(
    "tree",
    [
        "images/{}/c.jpg\nlabels/{}/c.txt\nimages/train/a.jpg\nlabels/train/a.txt",
        "{}/c.jpg\n{}/c.xml\ntrain/a.jpg\ntrain/a.xml",
    ],
)
def test_a_folder_that_is_no_split_is_passed_over_aloud(folder: str, tree: str, tmp_path: Path) -> None:
    root = build(tmp_path, tree.replace("{}", folder) + "\nclasses.txt    cat")
    notes = [note for note in check_dataset(root, fast=True).notes if "passed over" in note.what]
    assert notes and all(folder in note.where and "rename it" in str(note.fix) for note in notes)
    with pytest.warns(UserWarning, match=f"{folder}/: this folder is passed over"):
        read_data(root, TrainConfig())


LANGUAGES = {
    "Spanish": ("entrenamiento", "validacion", "prueba"),
    "Spanish with accents": ("Entrenamiento", "Validacio\u0301n", "Pruebas"),
    "French": ("entra\u00eenement", "validation", "test"),
    "German": ("Trainingsdaten", "Validierung", "Testdaten"),
    "Italian": ("addestramento", "validazione", "test"),
    "Portuguese": ("treino", "valida\u00e7\u00e3o", "teste"),
    "Polish": ("trening", "walidacja", "testowe"),
    "Dutch": ("trainen", "validatie", "testen"),
    "Russian": ("обучение", "валидация", "тест"),
    "Japanese": ("学習", "検証データ", "テスト"),
    "Chinese": ("训练集", "验证集", "测试集"),
    "Korean": ("훈련용", "검증", "테스트"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_folders_of_splits_in_other_languages(language: str, tmp_path: Path) -> None:
    names = dict(zip("abc", LANGUAGES[language], strict=True))
    shapes = {
        "voc": "{}/{}.jpg\n{}/{}.xml",
        "yolo": "images/{}/{}.jpg\nlabels/{}/{}.txt",
        "each": "{}/images/{}.jpg\n{}/labels/{}.txt",
    }
    for kind, shape in shapes.items():
        tree = "\n".join(shape.format(folder, name, folder, name) for name, folder in names.items())
        opened = open_data(build(tmp_path / kind, f"{tree}\nclasses.txt    cat"))
        found = {split: [Path(path).stem for path in opened.load(split).paths] for split in opened.splits}
        assert found == {"train": ["a"], "val": ["b"], "test": ["c"]}


@pytest.mark.parametrize("tree", ["{0}/{0}.jpg\n{0}/{0}.xml\n", "images/{0}/{0}.jpg\nlabels/{0}/{0}.txt\n"])
def test_folders_that_divide_nothing_are_named(tree: str, tmp_path: Path) -> None:
    root = build(tmp_path / "two", "".join(map(tree.format, ("uno", "dos"))) + "classes.txt    cat")
    assert any("these folders do not divide the data set" in note.what and "dos, uno" in note.what for note in notes_of(root))
    with pytest.warns(UserWarning, match="do not divide the data set(.|\n)*dos, uno"):
        read_data(root, TrainConfig())
    for names in (["uno"], ["train", "uno"]):
        other = build(tmp_path / names[0], "".join(map(tree.format, names)) + "classes.txt    cat")
        assert not any("do not divide" in note.what for note in notes_of(other))


def notes_of(root: Path) -> tuple[Problem, ...]:
    return check_dataset(root, fast=True).notes


@pytest.mark.parametrize("name", ["clases.txt", "Klassen.txt", "class.txt", "classses.txt", "クラス.txt"])
def test_a_list_of_names_in_another_spelling(name: str, tmp_path: Path) -> None:
    root = build(tmp_path, f"images/a.jpg\nlabels/a.txt\n{name}    cat")
    with pytest.raises(OnestageError, match=f"rename {name} to classes.txt"):
        read_data(root, TrainConfig())


def test_pictures_that_train_and_measure_are_no_secret_of_data_check(tmp_path: Path) -> None:
    root = build(tmp_path, YOLO + f"data.yaml    train: train/images; val: train/images; {NAMES}")
    assert any("several splits" in problem.what for problem in check_dataset(root, fast=True).problems)
    with pytest.warns(UserWarning, match="1 picture in both train and val, so AP tells nothing of other pictures"):
        read_data(root, TrainConfig())


def test_the_only_picture_that_trains_and_measures_is_no_secret(tmp_path: Path) -> None:
    root = build(tmp_path, "images/a.jpg\nlabels/a.txt\nclasses.txt    cat")
    with pytest.warns(UserWarning, match="the only picture is learned from and measured on, so AP tells nothing of other"):
        data = read_data(root, TrainConfig())
    assert data.train.paths == data.val.paths and len(data.train) == 1


def test_scores_of_coco_are_no_secret(tmp_path: Path) -> None:
    root = build(tmp_path, "all.json    a.jpg\na.jpg")
    assert not load_dataset(root).notes
    (root / "all.json").write_text((root / "all.json").read_text().replace('"bbox"', '"score": 0.1, "bbox"'))
    assert [note.what for note in load_dataset(root).notes] == [
        "labels have no score: whatever score says, every one is an object"
    ]


@pytest.mark.parametrize(("said", "flagged"), [(1, True), (True, True), ("0", False), (None, False), ("y", True)])
def test_difficult_in_coco_is_read_as_in_voc(said: object, flagged: bool, tmp_path: Path) -> None:
    root = build(tmp_path, "all.json    a.jpg\na.jpg")
    text = (root / "all.json").read_text()
    (root / "all.json").write_text(text.replace('"bbox"', f'"difficult": {json.dumps(said)}, "bbox"'))
    assert load_dataset(root).ignore.tolist() == [flagged] and not load_dataset(root).notes
    (root / "all.json").write_text(text.replace('"bbox"', '"difficult": "hard", "bbox"'))
    assert load_dataset(root).ignore.tolist() == [False]
    (note,) = load_dataset(root).notes
    assert note.what == "difficult flags no object: 'hard' in annotations[0] is neither yes nor no"


def test_an_odd_word_among_coco_s_difficult_is_a_problem(tmp_path: Path) -> None:
    root = build(tmp_path, "all.json    a.jpg\na.jpg")
    content = json.loads((root / "all.json").read_text())
    (thing,) = content["annotations"]
    words = [1, "n/a", None, "hard"]
    content["annotations"] = [{**thing, "id": number, "difficult": word} for number, word in enumerate(words)]
    trees.write(root / "all.json", json.dumps(content))
    with pytest.raises(OnestageError, match=r"annotations\[3\].*difficult should say yes or no; got: 'hard'"):
        load_dataset(root)
    assert load_dataset(root, on_bad="skip").ignore.tolist() == [True, False, False]


def test_scores_and_deleted_objects_of_voc_are_no_secret(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml")
    (thing,) = re.findall("<object>.*</object>", (root / "a.xml").read_text(), re.DOTALL)
    deleted = thing.replace("</name>", "</name><deleted>1</deleted>").replace("cat", "dog")
    scored = thing.replace("</name>", "</name><deleted>0</deleted><score>0.1</score>")
    trees.write(root / "a.xml", f"<annotation>{scored}{deleted}{deleted}</annotation>")
    data = load_dataset(root)
    assert data.classes == ("cat",) and len(data.boxes) == 1
    assert [note.what for note in data.notes] == [
        "labels have no score: whatever <score> says, every one is an object",
        "2 objects left out: <deleted> says so",
    ]
    trees.write(root / "a.xml", f"<annotation>{thing.replace('</name>', '</name><deleted>maybe</deleted>')}</annotation>")
    assert "<deleted> is not understood" in [problem.what for problem in check_dataset(root, fast=True).problems]


@pytest.mark.parametrize("format", ["txt", "xml"])
def test_labels_that_may_be_of_two_pictures_are_a_problem(format: str, tmp_path: Path) -> None:
    root = build(tmp_path, f"a.jpg\na.jpg.jpg\na.jpg.{format}    \nclasses.txt    cat".replace(".xml    ", ".xml    none.jpg"))
    if format == "txt":
        trees.write(root / "a.jpg.txt", "0 0.5 0.5 0.2 0.2")
    problems = check_dataset(root, fast=True).problems
    assert {str(problem.got) for problem in problems} & {"a.jpg, a.jpg.jpg", "a.jpg.jpg, a.jpg"}
    if format == "txt":
        trees.write(root / "data.yaml", "train: train.txt\nnames: [cat]\n")
        trees.write(root / "train.txt", "a.jpg\n")
    else:
        trees.write(root / "a.jpg.xml", (root / "a.jpg.xml").read_text().replace("none.jpg", "a.jpg"))
    data = load_dataset(root)
    assert [Path(path).name for path in data.paths] == ["a.jpg"] and len(data.boxes) == 1


CORNERS = [(30 + i, 20 + i, 45 + i, 35) for i in range(5)]


def csv_of(boxes: list[tuple[int, ...]]) -> str:
    rows = "; ".join(f"a.jpg,{','.join(map(str, box))},cat" for box in boxes)
    return f"all.csv    filename,xmin,ymin,xmax,ymax,class; {rows}\na.jpg"


def coco_of(root: Path, boxes: list[tuple[int, ...]]) -> Path:
    content = json.loads((build(root, "all.json    a.jpg\na.jpg") / "all.json").read_text())
    (entry,) = content["annotations"]
    content["annotations"] = [entry | {"id": number, "bbox": box} for number, box in enumerate(boxes)]
    (root / "all.json").write_text(json.dumps(content))
    return root


def test_boxes_in_another_form_than_the_format_has(tmp_path: Path) -> None:
    """Corners in COCO; widths and heights in the columns of corners. Some alone would be read as what they are not."""
    coco = coco_of(tmp_path / "coco", [*CORNERS, (1, 1, 9, 9)])
    csv = build(tmp_path / "csv", csv_of([(a, b, c - a, d - b) for a, b, c, d in CORNERS] + [(1, 1, 9, 9)]))
    for root, written, box in (
        (coco, "left, top, right, bottom", "30, 20, 45, 35"),
        (csv, "left, top, width", "30, 20, 15, 15"),
    ):
        with pytest.raises(OnestageError, match=f"these boxes look like {written}") as caught:
            load_dataset(root, on_bad="skip")
        assert f": {box}, and 4 more" in str(caught.value.got)
        with pytest.raises(OnestageError, match="look like"):
            check_dataset(root, fast=True)


SIDES = [(30 + 5 * i, 16 + 4 * i, 8 + i % 2, 7) for i in range(5)]
"""Left, top, width, height in a picture of 60 x 40."""


def test_centres_in_coco_and_corners_in_yolo(tmp_path: Path) -> None:
    """Their numbers tell, though some of the boxes alone would be read as what they are not."""
    coco = coco_of(tmp_path / "coco", [(52, 32, 14, 14), (48, 30, 20, 18), (50, 12, 18, 10), (30, 20, 9, 9), (12, 12, 9, 9)])
    corners = "; ".join(f"0 {l / 60} {t / 40} {(l + w) / 60} {(t + h) / 40}" for l, t, w, h in SIDES)  # noqa: E741
    yolo = build(tmp_path / "yolo", f"a.jpg\na.txt    {corners}\nclasses.txt    cat")
    for root, written, fix in (
        (coco, "centre x, centre y, width, height", "write centre x - width / 2"),
        (yolo, "left, top, right, bottom", r"write \(left \+ right\) / 2"),
    ):
        with pytest.raises(OnestageError, match=f"look like {written}(.|\n)*fix: +{fix}"):
            load_dataset(root, on_bad="skip")
        with pytest.raises(OnestageError, match="look like"):
            check_dataset(root, fast=True)


def coco_with_areas(root: Path, boxes: list[tuple[float, ...]], areas: list[float]) -> Path:
    file = coco_of(root, boxes) / "all.json"
    content = json.loads(file.read_text())
    content["annotations"] = [entry | {"area": area} for entry, area in zip(content["annotations"], areas, strict=True)]
    file.write_text(json.dumps(content))
    return root


def test_areas_that_contradict_the_boxes(tmp_path: Path) -> None:
    """Boxes in per cent, and small corners whose numbers alone can be widths and heights."""
    corners = [(5, 5, 15 + i, 14) for i in range(5)]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in corners]
    with pytest.raises(OnestageError, match="look like left, top, right, bottom"):
        load_dataset(coco_with_areas(tmp_path / "corners", corners, areas))
    sides = [(20 * i, 10 * i, 80 + 9 * i, 60) for i in range(5)]
    file = coco_with_areas(tmp_path / "per_cent", [(1, 1, 40, 60)] * 5, [w * h for _, _, w, h in sides]) / "all.json"
    with pytest.raises(OnestageError, match="smaller than the area that is stated for them\n"):
        load_dataset(file.parent, on_bad="skip")
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 400, "height": 300}
    boxes = [[left / 4, top / 3, width / 4, height / 3] for left, top, width, height in sides]
    content["annotations"] = [entry | {"bbox": box} for entry, box in zip(content["annotations"], boxes, strict=True)]
    file.write_text(json.dumps(content))
    with pytest.raises(OnestageError, match=r"per cent of the picture(.|\n)*divide them by 100"):
        load_dataset(file.parent, on_bad="skip")


def test_areas_of_outlines_are_smaller(tmp_path: Path) -> None:
    boxes = [(5, 5, 15 + i, 14) for i in range(5)]
    assert len(load_dataset(coco_with_areas(tmp_path, boxes, [90, 80, 100, 0, 1])).boxes) == 5


def test_a_slip_or_two_are_no_other_form(tmp_path: Path) -> None:
    coco = coco_of(tmp_path / "coco", [*CORNERS[:2], *[(1, 1, 9, 9)] * 2])
    assert [problem.got for problem in load_dataset(coco, on_bad="skip").problems] == [
        "30, 20, 45, 35 as left, top, width, height",
        "31, 21, 46, 35 as left, top, width, height",
    ]
    flat = build(tmp_path / "csv", csv_of([(5, 5, 5, 30)] * 4 + [(1, 1, 9, 9)]))
    assert len(load_dataset(flat, on_bad="skip").boxes) == 1


@pytest.mark.parametrize(
    ("scores", "second", "advice"),
    [
        ((0.9, 0.95, 0.9), True, "remove the second column.*3 of 3 lines are then boxes"),
        ((0.9, 0.95, 0.9), False, "remove the sixth column: labels"),
        ((0.5, 0.5, 0.5), True, "remove the score: .*3 of 3 lines .* without the sixth, 3 without the second"),
    ],
)
def test_where_a_score_stands(scores: tuple[float, ...], second: bool, advice: str, tmp_path: Path) -> None:
    boxes = ["0.4 0.4 0.2 0.3", "0.3 0.4 0.2 0.3", "0.5 0.4 0.2 0.3"]
    lines = "; ".join(f"0 {s} {box}" if second else f"0 {box} {s}" for s, box in zip(scores, boxes, strict=True))
    data = load_dataset(build(tmp_path, f"a.jpg\na.txt    {lines}\nb.jpg\nb.txt\nclasses.txt    cat"), on_bad="skip")
    assert len(data.problems) == 3 and re.search(advice, str(data.problems[0].fix))


@pytest.mark.parametrize("line", ["rot 0.5 0.5 0.2 0.2", "'rot' 0.5 0.5 0.2 0.2", "traffic light 0.5 0.5 0.2 0.2"])
def test_names_in_place_of_numbers(line: str, tmp_path: Path) -> None:
    root = build(tmp_path / "all", f"images/a.jpg\nlabels/a.txt    {line}\nclasses.txt    rot; blau")
    with pytest.raises(OnestageError, match=r"the first column of these labels is a name(.|\n)*: 0 for rot, 1 for blau"):
        open_data(root)
    root = build(tmp_path / "some", f"a.jpg\na.txt    0 0.5 0.5 0.2 0.2; {line}\nclasses.txt    rot; blau")
    (problem,) = load_dataset(root, on_bad="skip").problems
    assert "the first column is a name" in problem.what and "counted from 0" in str(problem.fix)


def test_misspelt_names_of_coco_and_csv_are_shown(tmp_path: Path) -> None:
    root = build(tmp_path / "coco", "all.json    a.jpg\na.jpg")
    text = (root / "all.json").read_text()
    (root / "all.json").write_text(text.replace('"annotations"', '"anotations"'))
    with pytest.raises(OnestageError, match="rename 'anotations' to annotations") as caught:
        read_data(root, TrainConfig())
    assert "images" in str(caught.value.got) and "anotations" in str(caught.value.got)
    (root / "all.json").write_text(text.replace('"bbox"', '"bbbox"'))
    with pytest.raises(OnestageError, match=r"this annotation has no bbox.*rename 'bbbox' to bbox"):
        read_data(root, TrainConfig())
    csv = build(tmp_path / "csv", csv_of(CORNERS).replace("xmin", "xmn").replace("filename", "width,height,filename"))
    with pytest.raises(OnestageError, match="none for xmin") as caught:
        read_data(csv, TrainConfig())
    assert caught.value.fix == "rename 'xmn' to xmin"


def test_a_gap_in_the_names_of_data_yaml_is_named(tmp_path: Path) -> None:
    root = build(tmp_path, YOLO + "data.yaml    train: train/images; names: {0: cat, 2: dog}")
    with pytest.raises(OnestageError, match=r"there is none for 1\n(.|\n)*'2': 'dog'"):
        read_data(root, TrainConfig())


LYING = {
    "nothing": ("", "no file", "arrange the files"),
    "pictures": ("a.jpg\nb.jpg", "2 pictures", "arrange the files"),
    "a CSV file": (
        "a.jpg\nx.csv    Datei;Klasse;x",
        "1 picture; 1 .csv file (x.csv, whose columns are not",
        "arrange the files",
    ),
    "other files": (
        "a.md    x\nb.md    x\nLICENSE    x",
        "0 pictures; 1 file without a suffix (LICENSE); 2 .md files (a.md, ...)",
        "",
    ),
    "pictures of a telephone": (
        "a.txt    0 .5 .5 .1 .1\nb.HEIC    x",
        "1 picture in a format that is not read (b.HEIC)",
        "JPEG",
    ),
}


@pytest.mark.parametrize("name", LYING)
def test_what_lies_in_a_folder_that_is_no_data_set(name: str, tmp_path: Path) -> None:
    tree, got, fix = LYING[name]
    root = build(tmp_path, tree) if tree else tmp_path
    for look in (lambda: check_dataset(root, fast=True), lambda: read_data(root, TrainConfig())):
        with pytest.raises(OnestageError, match="no labelled pictures were recognised here") as caught:
            look()
        assert got in str(caught.value.got) and fix in str(caught.value.fix)


@pytest.mark.parametrize(("part", "above"), [("train2017", True), ("images", True), ("holiday", False)])
def test_pictures_of_a_data_set_without_its_labels(part: str, above: bool, tmp_path: Path) -> None:
    """The labels of COCO, YOLO and VOC lie beside the folder of a split, not in it."""
    build(tmp_path, f"{part}/a.jpg\nannotations/all.json    a.jpg")
    with pytest.raises(OnestageError, match="no labelled pictures were recognised here") as caught:
        load_dataset(tmp_path / part)
    assert (f"name the one above it, {tmp_path}; or arrange" in str(caught.value.fix)) == above


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "Datei;Klasse;links;oben;rechts;unten; a.jpg;cat;5,5;6,5;20,5;20,5",
            "^rename 'Datei' to filename; rename 'Klasse' to label; .*'unten' to ymax; and write .* decimal points",
        ),
        (
            "Dateiname;Klasse;xmin;ymin;Breite;H\u00f6he; a.jpg;cat;5;6;15;15",
            "^rename 'Dateiname' to filename; .*'Klasse' to label; in place of 'Breite' and 'H.he', .* is xmin \\+ 'Breite'",
        ),
        ("archivo,clase,izquierda,arriba,derecha,abajo; a.jpg,cat,5,6,20,20", "'clase' to label; rename 'izquierda' to xmin"),
        ("fichier,classe,gauche,haut,droite,bas; a.jpg,cat,5,6,20,20", "'haut' to ymin; rename 'droite' to xmax"),
        ("filename,label,x,y,Breite,Hoehe; a.jpg,cat,5,6,15,15", "xmax is left \\+ width and ymax is top \\+ height$"),
        ("filename,label,xmin,ymin,foo,ymax; a.jpg,cat,5,6,20,20", "^call one column xmax, that of the right edges$"),
    ],
)
def test_columns_in_other_languages(text: str, advice: str, tmp_path: Path) -> None:
    header, row = text.split("; ")
    root = build(tmp_path, "a.jpg")
    (root / "all.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(OnestageError, match="columns of this CSV file are not understood") as caught:
        load_dataset(root)
    assert re.search(advice, str(caught.value.fix)) and header[:5] in str(caught.value.got)


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (("bndbox>", "bbox>"), "an object has no <bndbox>", "rename <bbox> to <bndbox>"),
        (("xmax>", "xmx>"), "<bndbox> has no <xmax>", "rename 'xmx' to xmax"),
        (
            ("xmax>", "width>", "ymax>", "height>"),
            "<bndbox> has no <xmax>, <ymax>",
            "xmax is xmin + width, and ymax is ymin + h",
        ),
        (
            ("xmin>", "x>", "ymin>", "y>", "xmax>", "w>", "ymax>", "h>"),
            "<bndbox> has no <xmin>",
            "xmax is x + w, and ymax is y + h",
        ),
    ],
)
def test_other_elements_of_a_box_in_voc(change: tuple[str, ...], what: str, fix: str, tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    text = (root / "a.xml").read_text()
    for old, new in zip(change[::2], change[1::2], strict=True):
        text = text.replace(old, new)
    (root / "a.xml").write_text(text)
    (problem,) = load_dataset(root, on_bad="skip").problems
    assert problem.what.startswith(what) and fix in str(problem.fix)
    assert "None" not in str(problem) and f"<{change[-1]}" in str(problem.got)


def test_a_csv_file_that_is_meant_says_its_columns(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\nx.csv    Datei;Klasse;x")
    for path, format in ((root / "x.csv", None), (root, "csv")):
        with pytest.raises(OnestageError, match="columns of this CSV file are not understood") as caught:
            load_dataset(path, format)
        assert "Datei;Klasse" in str(caught.value.got) and "filename,xmin,ymin,xmax,ymax,label" in str(caught.value.fix)


def test_a_picture_in_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    """Once, whatever format names it; a note if nothing names it."""
    yolo = build(tmp_path / "yolo", "images/a.jpg\nlabels/a.txt\nlabels/p.txt\nimages/p.heic    x\nclasses.txt    cat")
    voc = build(tmp_path / "voc", "a.jpg\na.xml\np.xml    p.heic\np.heic    x")
    coco = build(tmp_path / "coco", "all.json    a.jpg; p.heic\na.jpg\np.heic    x")
    for root in (yolo, voc, coco):
        report = check_dataset(root, fast=True)
        (problem,) = report.problems
        assert problem.what == "the picture is in a format that is not read" and "p.heic" in str(problem.got)
        assert any("1 picture in formats that are not read" in note.what for note in report.notes)
        with pytest.raises(OnestageError, match=r"p\.heic.*convert it to JPEG"):
            read_data(root, TrainConfig())


def test_labels_without_a_picture_count_once(tmp_path: Path) -> None:
    root = build(tmp_path, "images/a.jpg\nlabels/a.txt\nlabels/z.txt\nclasses.txt    cat")
    assert [problem.where for problem in check_dataset(root, fast=True).problems] == ["labels/z.txt"]
    assert [problem.where for problem in check_dataset(voc_bbox(tmp_path / "voc"), fast=True).problems][-1] == "a.xml object 1"


def voc_bbox(root: Path) -> Path:
    """A VOC data set whose box has another name."""
    build(root, "a.jpg\na.xml\nb.jpg\nb.xml")
    trees.write(root / "a.xml", (root / "a.xml").read_text().replace("bndbox", "bbox"))
    (problem,) = check_dataset(root, fast=True).problems
    assert problem.what == "an object has no <bndbox>" and "<bbox>" in str(problem.got)
    return root


def test_no_validation_pictures_are_a_note(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    assert NO_VALIDATION in [note.what for note in check_dataset(root, fast=True).notes]
    assert not check_dataset(build(tmp_path / "divided", YOLO + "classes.txt    cat"), fast=True).notes


def test_names_that_differ_in_capitals_are_a_note(tmp_path: Path) -> None:
    root = build(tmp_path, "a.jpg\na.xml\nb.jpg\nb.xml")
    (root / "b.xml").write_text((root / "b.xml").read_text().replace("cat", "Cat"))
    words = "the classes 'Cat' and 'cat' differ in capitals or blanks only"
    assert words in [note.what for note in check_dataset(root, fast=True).notes]
    with pytest.warns(UserWarning, match=words):
        read_data(root, TrainConfig())


def test_classes_of_a_split_are_not_called_those_of_a_model(tmp_path: Path) -> None:
    root = build(tmp_path, "annotations/train.json    a.jpg\nannotations/val.json    b.jpg\ntrain/a.jpg\nval/b.jpg")
    train, val = (root / f"annotations/{split}.json" for split in ("train", "val"))
    train.write_text(train.read_text().replace(', {"id": 2, "name": "dog"}', ""))
    val.write_text(val.read_text().replace('"category_id": 1', '"category_id": 2'))
    (problem,) = check_dataset(root, fast=True).problems
    with pytest.raises(OnestageError, match="1 object of 1 class that the split train does not have: dog") as caught:
        read_data(root, TrainConfig())
    error = caught.value
    assert (problem.where, problem.what, problem.fix) == (error.where, error.what, error.fix) and "model" not in str(error)
