"""A shard of pictures as rows: plain data, the same wherever it is computed, and a row for every picture."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onestage.predict.pictures import PictureFile
from onestage.predict.pipeline import Selection
from onestage.predict.predictor import Predictor
from onestage.predict.shard import Row, rows
from small_runs import detector


@pytest.fixture
def pictures(tmp_path: Path) -> list[PictureFile]:
    found = [PictureFile(tmp_path / f"{number}.png", f"picture {number}") for number in range(6)]
    for number, picture in enumerate(found):
        shade = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(shade).save(picture.path)
    found[2].path.write_bytes(b"no picture")
    found[4].path.unlink()
    return found


def without_time(found: list[Row]) -> list[list[object]]:
    columns = [row._replace(seconds=0.0) for row in found]
    return [[part.tolist() if isinstance(part, np.ndarray) else part for part in row] for row in columns]


def test_a_shard_has_a_row_for_each_picture(pictures: list[PictureFile]) -> None:
    looker = Predictor.of(detector().eval())
    found = list(rows(looker, pictures, selection=Selection(score=0.0, top=3), batch_size=2))
    assert [(row.id, row.path) for row in found] == [(picture.image_id, str(picture.path)) for picture in pictures]
    assert [row.status for row in found] == ["ok", "ok", "error", "ok", "error", "ok"]
    for row in found:
        assert row.boxes.shape == (len(row.names), 4) and row.scores.shape == row.labels.shape == (len(row.names),)
        assert (row.boxes.dtype, row.scores.dtype, row.labels.dtype) == (np.float32, np.float32, np.int64)
        if row.status == "ok":
            assert row.size == (40, 50) and (row.code, row.message) == (None, None)
            (expected,) = looker.predict(row.path, score=0.0)
            assert row.names == expected.class_names[:3] and row.labels.tolist() == expected.labels[:3].tolist()
        else:
            assert row.size is None and len(row.names) == 0 and row.code and row.path in (row.message or "")


def test_rows_are_plain_data_and_the_same_again(pictures: list[PictureFile]) -> None:
    looker = Predictor.of(detector().eval())
    first = list(rows(looker, pictures, selection=Selection(score=0.0, top=5)))
    again = list(rows(looker, pickle.loads(pickle.dumps(pictures)), selection=Selection(score=0.0, top=5)))
    assert without_time(pickle.loads(pickle.dumps(first))) == without_time(again)
