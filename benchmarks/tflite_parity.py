"""AP of an SSD from a TensorFlow Lite file, run by TensorFlow's interpreter and imported: same pictures, same metric.

    python benchmarks/tflite_parity.py coco_ssd_mobilenet_v1_quant_2018_06_29.tflite COCO_FOLDER

Files of this kind report few detections (often 10), which lowers AP. The last row has 100, the number that COCO counts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import tyro
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console
from rich.table import Table

import onestage
from onestage.data import Dataset
from onestage.evaluation import read_for
from onestage.images import decode_image
from onestage.metrics.coco import coco_metrics
from onestage.model.detector import Detector
from onestage.predict.measure import evaluate_dataset
from onestage.structures import Detections
from onestage.weights.source import read_source

FIGURES = ("AP", "AP50", "AP75")


def interpreted(file: Path, model: Detector, dataset: Dataset) -> list[Detections]:
    """The interpreter's detections in pixels of the pictures. The pictures are resized as ours; names and ids are the
    model's.
    """
    runner = Interpreter(str(file))
    runner.allocate_tensors()
    entry = runner.get_input_details()[0]
    names, ids = model.config.classes, model.config.category_ids
    found = []
    for image_id, path in zip(dataset.image_ids, dataset.paths, strict=True):
        resized, meta = model.config.preprocess.resize(decode_image(path))
        pixels = resized.round().to(torch.uint8)[None]
        images = pixels if entry["dtype"].__name__ == "uint8" else model.config.preprocess.normalize(pixels)
        runner.set_tensor(entry["index"], images.permute(0, 2, 3, 1).contiguous().numpy())
        runner.invoke()
        outputs = [torch.from_numpy(runner.get_tensor(output["index"])) for output in runner.get_output_details()]
        count = int(outputs[3])
        boxes, labels, scores = outputs[0][0, :count], outputs[1][0, :count].long(), outputs[2][0, :count]
        height, width = meta.original
        boxes = boxes[:, [1, 0, 3, 2]] * torch.tensor([width, height, width, height])
        chosen = [(names[i], ids[i]) for i in labels.tolist()]
        found.append(
            Detections(
                boxes=boxes,
                scores=scores,
                labels=labels,
                class_names=tuple(name for name, _ in chosen),
                category_ids=tuple(number for _, number in chosen),
                size=meta.original,
                image_id=image_id,
            ).clipped()
        )
    return found


def main(file: tyro.conf.Positional[Path], data: tyro.conf.Positional[Path], /, split: str | None = None) -> None:
    """Compare the interpreter with the imported detector.

    Args:
        file: a .tflite file of the TF object-detection API
        data: a labelled data set
        split: train, val or test; by default test, else val, else everything
    """
    source = read_source(file)
    model = onestage.create(source.model, weights=file).eval()
    dataset = read_for(model, data, split=split, on_bad="stop")
    truths = [dataset.truth(i) for i in range(len(dataset))]
    table = Table("", *FIGURES, title=f"{file.name} on {data.name}: {len(dataset)} pictures")

    def row(what: str, found: list[Detections]) -> None:
        figures = coco_metrics(found, truths, dataset.classes).figures
        table.add_row(what, *(f"{figures[name]:.4f}" for name in FIGURES))

    row("the interpreter", interpreted(file, model, dataset))
    row("imported", evaluate_dataset(model, dataset)[1])
    model.config = replace(model.config, postprocess=replace(model.config.postprocess, detections=100))
    row("imported, 100 detections", evaluate_dataset(model, dataset)[1])
    Console(width=100).print(table)


if __name__ == "__main__":
    tyro.cli(main)
