"""How large the numbers of a config, and the files of models, may be.

A file states sizes. It does not decide how much memory and time they take: each number has a limit, and all are checked before
anything is built or read. The limits lie far above all networks of the zoo, at all sizes and classes that these are used for.
"""

from __future__ import annotations

from typing import Annotated

from onestage.model.codec import Limit, Range

Channels = Annotated[int, Limit("channels of a layer", 8192, usual=1024), Range(least=1)]
"""VGG16 has 1,024 in its widest layer, a ResNet 2,048; timm's widest convolutional networks have about 7,400."""
Layers = Annotated[int, Limit("layers of one kind", 64, usual=8), Range(least=0)]
"""EfficientDet D7 has 8 layers in its neck and 5 in its heads."""
Levels = Annotated[int, Limit("levels of a pyramid", 16, usual=8)]
"""An input of 8,192 pixels is halved 13 times to a single cell."""
CELLS = Limit("cells of a window, of its steps or its border", 64, usual=7)
Window = Annotated[int, CELLS, Range(least=1)]
Border = Annotated[int, CELLS, Range(least=0)]
"""The side of a convolution's kernel; the largest in use have 31 cells."""
SIDE = Limit("pixels along a side of the input", 8192)
Side = Annotated[int, SIDE, Range(least=1)]
"""EfficientDet D7x takes 1,536, RetinaNet up to 1,333."""
Octaves = Annotated[int, Limit("sizes of anchors per level", 64), Range(least=1)]
"""RetinaNet and EfficientDet have 3."""
Candidates = Annotated[int, Limit("candidates", 2**24), Range(least=1)]
"""As many as there may be anchors. EfficientDet takes the 5,000 best; some SSDs take all."""
Found = Annotated[int, Limit("detections of a picture", 100_000), Range(least=1)]
"""COCO counts 100, crowded pictures have some thousand objects."""
Cells = Annotated[int, Limit("cells per object and level", 10_000), Range(least=1)]
"""ATSS takes 9."""
Id = Annotated[int, Limit("the number of a class id", 2**63 - 1)]
"""The id of a class in its data set; larger numbers fit into no tensor."""
Name = Annotated[str, Limit("characters of a name", 500)]
"""Longer names of classes and networks fit no table and no message."""

Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
"""A part of a whole, from none of it to all of it; some of it in ``SomeShare``, and less than all in ``Rate``."""
SomeShare = Annotated[float, Range(above=0, most=1)]
Rate = Annotated[float, Range(least=0, below=1)]
Probability = Annotated[float, Range(above=0, below=1)]
"""Of what is neither impossible nor certain."""

MANY_CLASSES = Limit("classes", 2**15, usual=1000)
"""Objects365 has 365 classes, LVIS 1,203, ImageNet 21,841."""
MANY_LEVELS = Limit("entries of a list with one per level", 17, usual=9)
"""As ``Levels``, and the sizes of anchors have one more."""
MANY_SHAPES = Limit("anchor shapes of a level", 256, usual=16)
"""RetinaNet has 9, SSD 4 or 6."""
MANY_LAYERS = Limit("layers of a backbone that is listed layer by layer", 1024, usual=128)
"""A MobileNet v2 with SSD's extra levels has about 60."""
Index = Annotated[int, Limit("layers before a layer", 1024)]
"""The number of a layer of such a backbone. The first has 0."""

ANCHORS = Limit("anchors of an input", 2**24)
"""RetinaNet has 12.6 million at 8,192 x 8,192 pixels. Their boxes then take 256 MB."""
PARAMETERS = Limit("numbers in the weights", 2**30)
"""4 GB. EfficientDet D7x has 77 million; a RetinaNet on ResNet-101 for 10,000 classes has 258 million."""

CONFIG_TEXT = Limit("characters of a config in JSON", 2**22)
"""A config with 10,000 long class names takes 0.5 million."""
HEADER = Limit("bytes of a header of tensors", 2**24)
"""A detector's header takes about 100 kB. The safetensors format itself allows 100 MB, which would take a gigabyte to parse."""
PICKLE = Limit("bytes of a pickle without its tensors", 2**24)
"""That of a checkpoint with the state of its optimiser takes about 1 MB."""
TENSORS = Limit("tensors in a file", 100_000)
"""EfficientDet D7x has 2,210."""
WEIGHTS_FILE = Limit("bytes of a weights file", 2**33)
"""8 GB: the largest weights, and as much again."""
TFLITE_FILE = Limit("bytes of a TensorFlow Lite file", 2**29)
"""Networks for phones take up to 100 MB. The format ends at 2 GB."""
