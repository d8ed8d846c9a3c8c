"""Files of pixels: crops are where the boxes are, blurred objects stay blurred, and no file leaves its folder."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onestage.errors import WriteError
from onestage.images import decode_image
from onestage.predict.blurring import CELLS, Blur, pixelated
from onestage.predict.copies import LEAST_SIDE, Annotated, Blurred, Crops, Piece, Plain, SetPictures, class_folders
from onestage.predict.pictures import PictureFile, name_pictures
from onestage.predict.zones import Zone
from onestage.structures import Detections

CLASSES = ("cat", "../dog", "CAT", "con")


def noise(height: int = 60, width: int = 80, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def found(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (60, 80)) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, len(labels)),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=tuple(CLASSES[label] for label in labels),
        category_ids=tuple(labels),
        size=size,
    )


PICTURE = PictureFile(Path("x.png"), "x.png", "x.png", "x")


def test_crops_are_the_pixels_of_the_boxes_and_slivers_are_left_out(tmp_path: Path) -> None:
    image = noise()
    boxes = [[10, 5, 30, 25], [9.6, 4.2, 20.1, 15.9], [-20, 50, 7, 90], [40, 10, 43, 50], [100, 10, 120, 30], [0, 0, 80, 60]]
    Crops(tmp_path, CLASSES)(PICTURE, found(boxes, [0, 1, 2, 0, 0, 3]), image)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == ["CAT-2/x-003.png", "_._dog/x-002.png", "_con/x-006.png", "cat/x-001.png"]
    assert torch.equal(decode_image(tmp_path / "cat/x-001.png"), image[:, 5:25, 10:30])
    assert torch.equal(decode_image(tmp_path / "_._dog/x-002.png"), image[:, 4:16, 9:21])
    assert torch.equal(decode_image(tmp_path / "CAT-2/x-003.png"), image[:, 50:60, 0:7])
    assert torch.equal(decode_image(tmp_path / "_con/x-006.png"), image)
    assert LEAST_SIDE == 4


def test_no_crop_replaces_another_and_none_leaves_its_folder(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/x.jpg", "a_x.png", "x-001.jpg", "x.jpg", "x.gif"]
    pictures = name_pictures([Path("in") / name for name in names])
    (tmp_path / "crops").mkdir()
    for picture in pictures:
        Crops(tmp_path / "crops", CLASSES)(picture, found([[0, 0, 20, 20], [5, 5, 40, 40]], [1, 1]), noise())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 * len(names) and all(path.parent.parent == tmp_path / "crops" for path in files)


@given(
    st.lists(st.text(max_size=20) | st.sampled_from(["..", ".", "", "a/b", "A/B", "nul"]), min_size=1, max_size=8, unique=True)
)
def test_each_class_has_a_folder_whatever_its_name(names: list[str]) -> None:
    folders = class_folders(tuple(names))
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(folder and folder == Path(folder).name and folder not in (".", "..") for folder in folders)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_few_colours_are_left_of_a_blurred_region(height: int, width: int, seed: int) -> None:
    image = noise(height, width, seed)
    blurred = pixelated(image)
    assert blurred.shape == image.shape and blurred.dtype == torch.uint8
    colours = {tuple(colour) for colour in blurred.reshape(3, -1).T.tolist()}
    assert len(colours) <= CELLS**2
    difference = blurred.float().mean((1, 2)) - image.float().mean((1, 2))
    assert difference.abs().max() <= 8 or min(height, width) % CELLS  # half a step of colours


def test_a_small_change_of_an_object_does_not_show(tmp_path: Path) -> None:
    """So nobody finds what was there by blurring guesses."""
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    other = image.clone()
    other[:, 10:14, 10:12] = 130
    assert torch.equal(pixelated(image), pixelated(other))


def test_all_objects_of_the_classes_are_blurred_with_a_margin_and_nothing_else() -> None:
    image = noise()
    blurred = Blur((1,))(found([[20, 20, 40, 40], [60, 10, 75, 30]], [1, 0]), image)
    inner = torch.zeros(60, 80, dtype=torch.bool)
    inner[17:43, 17:43] = True  # 0.15 of 20 on each side
    changed = (blurred != image).any(0)
    assert changed[inner].float().mean() > 0.98 and not changed[~inner].any()
    assert torch.equal(image, noise()), "the picture itself stays"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("kind", [Plain, Annotated, SetPictures, Crops])
def test_no_pixel_of_a_blurred_object_is_in_any_file(name: str, kind: type, tmp_path: Path) -> None:
    """Not in the copy, and not in a thumbnail or a comment of it."""
    path = tmp_path / name
    secret, pixels = Image.new("RGB", (80, 60), (255, 0, 255)), noise()
    exif = Image.Exif()
    exif[0x010E], exif[0x9286] = "SECRET", "SECRET"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, exif=exif, icc_profile=b"SECRET" * 30, quality=100)
    path.write_bytes(path.read_bytes() + _thumbnail(secret))
    image = decode_image(path)
    piece: Piece = kind(tmp_path / "out", CLASSES) if kind is Crops else kind(tmp_path / "out")
    if kind is SetPictures:
        piece = SetPictures(tmp_path / "out", encode=True)
    (picture,) = name_pictures([path])
    Blurred(Blur((0,)), piece)(picture, found([[20, 20, 40, 40]], [0]), image)
    (file,) = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert b"SECRET" not in file.read_bytes() and file.read_bytes().count(b"\xff\xd8\xff") <= 1
    with Image.open(file) as opened:
        assert set(opened.getexif()) == {0x0131} and not {"icc_profile", "comment", "thumbnail"} & set(opened.info)
    before, other = file.read_bytes(), image.clone()
    other[:, 17:22, 17:22] = image[:, 17:22, 17:22].flip(2)  # the first cell of the object, in another order
    Blurred(Blur((0,)), piece)(picture, found([[20, 20, 40, 40]], [0]), other)
    assert file.read_bytes() == before and not torch.equal(other, image)


def _thumbnail(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


def test_zones_are_drawn_with_what_is_in_them(tmp_path: Path) -> None:
    image = torch.full((3, 120, 160), 40, dtype=torch.uint8)
    zone = Zone.read("left=0,0,.5,0,.5,1,0,1")
    objects = found([[10, 10, 50, 50]], [0], (120, 160))
    Annotated(tmp_path / "plain", classes=CLASSES)(PICTURE, objects, image)
    Annotated(tmp_path / "zones", (zone,), CLASSES)(PICTURE, objects, image)
    plain, drawn = decode_image(tmp_path / "plain/x.png"), decode_image(tmp_path / "zones/x.png")
    changed = (plain != drawn).any(0)
    assert changed[2:-2, 2:76].float().mean() > 0.5 and not changed[:, 84:].any()
    assert (drawn[:, 60, 78:82] > 200).all(0).any(), "a white line"


@pytest.mark.parametrize("link", [False, True])
def test_pictures_of_a_set_are_the_files_themselves(link: bool, tmp_path: Path) -> None:
    path = tmp_path / "a b.JPG"
    Image.fromarray(noise().permute(1, 2, 0).numpy()).save(path)
    odd = tmp_path / "w.dat"
    odd.write_bytes(path.read_bytes())
    for picture in name_pictures([path, odd]):
        SetPictures(tmp_path / "out", link=link)(picture, found([], []), decode_image(picture.path))
    assert (tmp_path / "out/a_b.jpg").read_bytes() == path.read_bytes()
    assert (tmp_path / "out/a_b.jpg").is_symlink() == link
    assert torch.equal(decode_image(tmp_path / "out/w.png"), decode_image(odd))


def test_a_file_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/x-001.png").write_bytes(b"mine")
    with pytest.raises(WriteError, match="did not write"):
        Crops(tmp_path, CLASSES)(PICTURE, found([[0, 0, 20, 20]], [0]), noise())
    assert (tmp_path / "cat/x-001.png").read_bytes() == b"mine"
