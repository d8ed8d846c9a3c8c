"""The border to timm's checkpoints: a classifier's names to those of its feature extractor, and the input it was trained on."""

from collections.abc import Collection, Mapping

import timm
from torch import Tensor

from onestage.errors import ConfigError
from onestage.model.config import DetectorConfig


def convert_backbone(
    tensors: Mapping[str, Tensor], config: DetectorConfig, network: str, names: Collection[str]
) -> tuple[dict[str, Tensor], DetectorConfig]:
    """A timm classifier's weights as our backbone, and the config with the pixels that they expect.

    network: timm's name of the backbone. names: the state_dict's keys of the detector. timm's extractors join the first two
    parts of some names ("stages.0" becomes "stages_0"); the form that the detector has is used.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        forms = [f"backbone.body.{name}", f"backbone.body.{name.replace('.', '_', 1)}"]
        renamed |= {form: tensor for form in forms if form in names}
    source = timm.get_pretrained_cfg(network)
    if source is None:
        return renamed, config
    return renamed, config.replace({"preprocess.mean": source.mean, "preprocess.std": source.std})


def published(name: str) -> tuple[str, str]:
    """(hub repository, file name) of the weights timm publishes for a backbone.

    Raise ConfigError if it publishes none on the hub.
    """
    source = timm.get_pretrained_cfg(name)
    if source is None or not source.hf_hub_id:
        raise ConfigError("timm publishes no weights for this backbone", got=name, fix="give a file")
    return source.hf_hub_id, source.hf_hub_filename or "model.safetensors"
