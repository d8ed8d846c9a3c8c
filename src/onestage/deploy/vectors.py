"""Test vectors: for a few pictures, what the input of a file must be, and what it finds in them.

Shape letters: H and W of a picture, h and w of the input, D detections.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from onestage.files import make_folder, write_file
from onestage.predict.engines.exported import FileEngine
from onestage.predict.predictor import Predictor

README = """Test vectors for {name}

picture_N.png    a picture
input_N.npy      the same, as it goes into the file: (1, 3, h, w), RGB in 0..255, resized and padded;
                 a file for several pictures at once takes several of these
boxes_N.json     the detections: boxes x1, y1, x2, y2 in pixels of the picture, scores, labels, names;
                 frame: where the picture lies in the input, x1, y1, x2, y2

Your preprocessing is right if it turns picture_N.png into input_N.npy, up to one grey level.
"""


def vectors_place(path: Path) -> Path:
    """The folder for the vectors of an exported file. Its name differs between formats, which may lie in one folder."""
    name = path.stem if path.suffix in (".onnx", ".param") else path.name
    return path.with_name(f"{name}_vectors")


def write_vectors(path: Path, file: Predictor, pictures: Sequence[Tensor]) -> Path:
    """Write the vectors of pictures, (3, H, W) uint8 each, into a folder beside the exported file, and return the folder."""
    folder = make_folder(vectors_place(path))
    write_file(folder / "README.txt", README.format(name=path.name))
    for number, picture in enumerate(pictures):
        images, metas = file.config.preprocess.batch([picture])
        found = file.decode(file.run(images, metas), metas)[0]
        assert isinstance(file.engine, FileEngine)
        write_file(folder / f"picture_{number}.png", _png(picture))
        write_file(folder / f"input_{number}.npy", _npy(file.engine.as_pixels(images)))
        rows = [{"box": list(d.box), "score": d.score, "label": d.label, "name": d.name} for d in found]
        plain = {"frame": metas[0].frame.tolist(), "detections": rows}
        write_file(folder / f"boxes_{number}.json", json.dumps(plain, indent=1))
    return folder


def _png(picture: Tensor) -> bytes:
    """A picture (3, H, W) uint8 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def _npy(images: Tensor) -> bytes:
    """Images (1, 3, h, w) as a NumPy file."""
    file = io.BytesIO()
    np.save(file, images.contiguous().numpy())
    return file.getvalue()
