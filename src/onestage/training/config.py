"""How to train, as plain frozen data. The command line is made from it, and every run stores it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Literal, get_type_hints

import tyro

from onestage.data.loader import usual_workers
from onestage.data.memory import GIGABYTES
from onestage.data.table import OnBad
from onestage.data.transforms import Augment
from onestage.data.workers import TIMEOUT, Workers
from onestage.errors import ConfigError, known_keywords, nearest
from onestage.model.codec import Range, decode_value

LEARNING_RATES = {"sgd": 0.02, "adamw": 1e-3}
"""For 32 pictures per step. For another number, in proportion to it (sgd) or to its square root (adamw)."""
WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}
MILESTONES = (0.67, 0.89)
"""RetinaNet's 60k and 80k of 90k steps (arXiv 1708.02002, section 4.1)."""
RANGES = {
    "epochs": Range(least=1),
    "batch_size": Range(least=1),
    "accumulate": Range(least=1),
    "lr": Range(above=0, below=100),
    "momentum": Range(least=0, below=1),
    "weight_decay": Range(least=0, below=1),
    "warmup": Range(least=0),
    "clip_norm": Range(least=0),
    "evaluate_every": Range(least=0),
    "checkpoint_minutes": Range(least=0),
    "workers": Range(least=0),
    "worker_timeout": Range(above=0, below=1e6),
    "picture_memory": Range(above=0, below=1e6),
    "seed": Range(least=0),
    # by the clock
    "steps": Range(least=1),
    "minutes": Range(above=0, below=1e6),
    "evaluate_steps": Range(least=1),
    "evaluate_pictures": Range(least=1),
    # data
    "clean": Range(least=0, most=1),
    "balance": Range(least=0, most=1),
    "cache": Range(least=0, below=1e6),
    # averages, freezing, stopping early
    "ema": Range(least=0, below=1),
    "freeze": Range(least=0),
    "backbone_lr": Range(above=0, most=1),
    "layer_decay": Range(above=0, most=1),
    "patience": Range(least=0),
    # broken pictures
    "bad_limit": Range(least=0, most=0.1),
}
"""The values that the settings of a training may have."""
BAD_LIMIT = 0.01
"""The usual share of the pictures that may be left out under a limit."""
EPOCHS = 100
"""The usual number. Steps and minutes come in its place."""
FITTED = ("steps", "evaluate_steps", "evaluate_pictures")
"""The settings that a training of a number of minutes finds by itself."""
LENGTHS = ("steps", "minutes")
"""The other settings that say how long to train."""
UNCOMPILED = ("shared_batch_norm", "recompute", "shard")
"""Settings that change how the network runs, which a compiled one does not notice."""
Setting = bool | int | float | str | tuple[str, ...] | tuple[float, ...] | None
"""A value of a field of ``TrainConfig``."""
RULED = (
    "epochs", "batch_size", "augment", "augment_with", "evaluate_every", "precision", "channels_last", "fp32_depthwise",
    "cache", "on_bad", "lr", "warmup", "ema", "fused", "decoder", "shared_batch_norm",
)  # fmt: skip
"""The settings of a new run that rules decide if the user leaves them out (training/rules.py, training/recipes.py)."""
AUGMENTS = {"ssd": Augment.ssd(), "light": Augment.light(), "none": Augment.none()}


@known_keywords
@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run.

    A run that an earlier version began may lack newer settings. Each default is the value by which that version acted.
    """

    # how long, and how many pictures at once
    epochs: int = EPOCHS
    """The number of times that every picture is used."""
    steps: int | None = None
    """Optimiser steps in all, in place of epochs; the last epoch may be a part of one."""
    minutes: float | None = None
    """Time for the whole training, in place of epochs; the speed of the first steps tells how many steps fit."""
    batch_size: int = 16
    """Pictures per optimiser step, over all processes together."""
    accumulate: int = 1
    """The number of parts of a step, to save memory; the result stays the same except for batch norm and drop_path."""
    recompute: bool = False
    """Keep no maps inside blocks for the backward pass, but compute them again there (gradient checkpointing): less memory, a
    slower step, the same result."""
    shard: bool = False
    """With several processes: divide the weights that learn, the gradients and the momenta among them (FSDP2)."""
    shared_batch_norm: bool = False
    """With several processes: batch norm takes its statistics over the pictures of all, with two exchanges for each layer."""
    # how the weights change
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """AdamW needs the least tuning; the papers used SGD with momentum."""
    lr: float | None = None
    """Peak learning rate; by default one that suits the optimiser and the batch size."""
    backbone_lr: float = 1.0
    """The learning rate of the backbone, as a part of that of the other layers."""
    layer_decay: float = 1.0
    """Each stage of the backbone learns at this part of the rate of the stage behind it; the last one, of that of neck and
    head."""
    warmup: int = 200
    """Steps over which the learning rate rises from nearly 0; at most a tenth of the training."""
    momentum: float = 0.9
    """Of SGD; AdamW's beta 1."""
    weight_decay: float | None = None
    """On the weights of convolutions only, never on norms, biases and scales; by default one that suits the optimiser."""
    freeze: int | Literal["backbone"] = 0
    """Stages of the backbone, from the image on, that do not learn, nor their batch norm's statistics; each ends with a feature
    map. backbone: all of them."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the learning rate falls: along a cosine to a hundredth, or to a tenth at each milestone."""
    milestones: tuple[float, ...] = MILESTONES
    """The places where "steps" lowers the learning rate, as parts of the whole training."""
    clip_norm: float = 10.0
    """The largest norm of the gradient; larger ones are scaled down. 0 switches it off."""
    # how pictures are augmented and chosen
    augment: Literal["ssd", "light", "none"] = "ssd"
    """ssd: colours, zoom-out, IoU crop, mirror image. light: colours and mirror image. none: the pictures as they are."""
    augment_with: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Changes to the augmentation, one or more: --augment-with flip_vertical=0.5 if pictures have no up and down. Others:
    photometric, shuffle_channels, zoom_out, zoom_out_p, iou_crop, flip, mosaic, scale_jitter and min_size."""
    clean: float = 0.0
    """The last part of the training, 0 to 1, in which mosaic and scale jitter are off."""
    balance: float = 0.0
    """The share of the pictures, 0 to 1, below which a class is shown more often, by repeat factors; 0: all equally often."""
    # how it computes
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the network's arithmetic (autocast); auto is bf16 on a GPU that has it, and fp32 on any other device."""
    # how it is measured and kept
    evaluate_every: int = 1
    """Epochs between two measurements on the validation pictures; the last epoch is always measured. 0: only the last."""
    evaluate_steps: int | None = None
    """Steps between two measurements, in place of evaluate_every. Rows of results and checkpoints then come with these."""
    evaluate_pictures: int | None = None
    """Measure on so many of the validation pictures, spread evenly; by default on all."""
    patience: int = 0
    """Stop if the validation AP has not risen by more than 0.001 in so many measurements in a row; 0: never."""
    checkpoint_minutes: float = 10.0
    """A checkpoint is written at least this often, besides the one after every epoch."""
    # how pictures are read
    workers: int | None = None
    """Processes that read and augment pictures; by default what suits this machine. They never change the result."""
    decoder: Literal["pillow", "fast"] = "pillow"
    """Who decodes JPEGs for training. fast: torchvision, and large ones no larger than the input needs."""
    cache: float = 0.0
    """Gigabytes of decoded training pictures that all processes together keep in memory; they never change the result."""
    worker_timeout: float = TIMEOUT
    """Seconds after which a process that says nothing is given up, one that reads pictures or one that trains."""
    picture_memory: float = GIGABYTES
    """Gigabytes for the pictures that are decoded at the same time, by all processes together."""
    # what stays the same, and what is left out
    seed: int = 0
    """Same seed, same machine: the same weights to the bit."""
    on_bad: Literal["stop", "limit", "skip"] = "stop"
    """What to do if an annotation is bad or a picture unreadable. limit: leave out pictures that are missing or unreadable and
    boxes without area, up to bad_limit, and stop at anything else. skip: leave out all that is bad."""
    bad_limit: float | None = None
    """The share of the pictures, up to 0.1, that may be left out under on_bad limit; by default 0.01. Ten may always be left
    out, but never more than a tenth."""
    # averages, and the speed of a step
    ema: float = 0.0
    """Measure and save a moving average of the weights, with this decay per step, such as 0.999; the first steps have a
    smaller one. 0: the weights themselves."""
    channels_last: bool = True
    """Whether channels lie last in memory. On most machines this is the faster order; the other one is channels first."""
    fused: bool = False
    """Change all weights in one pass over memory, where torch has such an optimiser for the device."""
    fp32_depthwise: bool = False
    """With bf16 on a CPU: leave depthwise convolutions in fp32. Their gradient takes a CPU longer in bf16."""
    compile: bool = False
    """Compile the network (torch.compile): a slow first step, then faster ones. It needs a C++ compiler, on a GPU Triton."""
    # where
    log: Literal["none", "tensorboard", "mlflow", "wandb"] | None = None
    """Also log the training there; an extra of the same name: pip install 'onestage[tensorboard]'. none: nowhere, also where
    a run that goes on has been logged."""
    device: str | None = None
    """"cpu" or "cuda"; by default cuda if there is one."""

    def __post_init__(self) -> None:
        for name, declared in get_type_hints(TrainConfig).items():
            decode_value(getattr(self, name), declared, name)
        _ = self.augmentation  # raises now for a wrong change, not in the first epoch
        for name, bounds in RANGES.items():
            bounds.check(getattr(self, name), name, fix=_usual(name))
        if self.accumulate > self.batch_size:
            what, expected = "a step cannot have more parts than pictures", f"1 to {self.batch_size}, the batch size"
            raise ConfigError(what, where="accumulate", got=self.accumulate, expected=expected, fix=_usual("accumulate"))
        if not _rising(0, *self.milestones, 1):
            what, expected = "milestones are rising parts of the training", "rising numbers between 0 and 1"
            raise ConfigError(what, where="milestones", got=self.milestones, expected=expected, fix=_usual("milestones"))
        if self.epochs != EPOCHS and (length := next((name for name in LENGTHS if getattr(self, name) is not None), None)):
            what, got = "two settings say how long to train", f"epochs {self.epochs}, {length} {getattr(self, length):g}"
            raise ConfigError(what, where=length, got=got, fix=f"give one of epochs=, steps= and minutes=; leave {length}= out")
        self._check_useful()
        if self.schedule != "steps" and self.milestones != MILESTONES:
            what, fix = "milestones do nothing along a cosine", "schedule='steps', or leave milestones= out"
            raise ConfigError(what, where="milestones", got=self.milestones, fix=fix)

    def _check_useful(self) -> None:
        """Raise ConfigError for a setting that another one makes useless."""
        if self.fp32_depthwise and (self.precision == "fp32" or self.compile):
            what, got = "fp32_depthwise is for bf16, not compiled", f"precision {self.precision}, compile {self.compile}"
            fix = "precision='bf16' without compile=; or leave fp32_depthwise= out"
            raise ConfigError(what, where="fp32_depthwise", got=got, fix=fix)
        uncompiled = next((name for name in UNCOMPILED if getattr(self, name)), None)
        if self.compile and uncompiled is not None:
            what, fix = f"a compiled network has no {uncompiled}", f"leave compile= or {uncompiled}= out"
            raise ConfigError(what, where=uncompiled, got="compile True", fix=fix)
        if self.bad_limit is not None and self.on_bad != "limit":
            what, fix = "only on_bad limit has a limit", "on_bad='limit', or leave bad_limit= out"
            raise ConfigError(what, where="bad_limit", got=f"on_bad {self.on_bad}", fix=fix)
        if self.freeze == "backbone" and (self.backbone_lr, self.layer_decay) != (1, 1):
            what, fix = (
                "a frozen backbone has no learning rate",
                "leave backbone_lr= and layer_decay= out, or leave freeze= out",
            )
            got = f"freeze {self.freeze}, backbone_lr {self.backbone_lr:g}, layer_decay {self.layer_decay:g}"
            raise ConfigError(what, where="freeze", got=got, fix=fix)
        if self.patience and not self.evaluate_every and self.evaluate_steps is None:
            what, fix = "patience counts measurements, and only the last epoch is measured", "evaluate_every=1"
            raise ConfigError(what, where="patience", got=f"evaluate_every {self.evaluate_every}", fix=fix)

    @property
    def augmentation(self) -> Augment:
        """The preset with its changes. Raise ConfigError for an unknown setting; it names the nearest one."""
        names = [f.name for f in fields(Augment)]
        changes = {}
        for change in self.augment_with:
            name, _, value = change.partition("=")
            if name not in names:
                what = f"augmentation has no '{name}'{nearest(name, names)}"
                raise ConfigError(what, where="augment_with", expected=", ".join(names))
            try:
                changes[name] = float(value)
            except ValueError as e:
                raise ConfigError(f"{name} is not a number", where="augment_with", got=change, expected="NAME=VALUE") from e
        return replace(AUGMENTS[self.augment], **changes)

    @property
    def bad_share(self) -> float | None:
        """The share of the pictures that may be left out under a limit; None if there is no limit."""
        return None if self.on_bad != "limit" else BAD_LIMIT if self.bad_limit is None else self.bad_limit

    @property
    def on_bad_picture(self) -> OnBad:
        """What readers and loaders do about what is bad. Under a limit they leave it out, and the training counts it."""
        return "stop" if self.on_bad == "stop" else "skip"

    def workers_of(self, world: int) -> Workers:
        """The processes that read pictures for one of ``world`` processes that train."""
        count = usual_workers(world) if self.workers is None else self.workers
        return Workers(count, self.worker_timeout, self.picture_memory / world)

    @property
    def options(self) -> list[str]:
        """The options of the command line that give these settings."""
        derived = FITTED if self.minutes is not None else ()
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = [field.name for field in fields(self) if field.name not in derived and values[field.name] != field.default]
        return [text for name in changed for text in typed(name, values[name])]

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        if self.lr is not None:
            return self.lr
        share = self.batch_size / 32
        return LEARNING_RATES[self.optimizer] * (share if self.optimizer == "sgd" else share**0.5)

    def lr_rule(self, base: float) -> str:
        """How the learning rate follows from ``base``, that for 32 pictures per step, in a few words."""
        how = "" if self.optimizer == "sgd" else "the square root of "
        return f"{base:g} for 32 pictures per step, times {how}{self.batch_size}/32"

    @property
    def decay(self) -> float:
        """The weight decay, for those weights that have one."""
        return WEIGHT_DECAYS[self.optimizer] if self.weight_decay is None else self.weight_decay


def known_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Those that have a value other than None. Raise ConfigError for a name that no setting has; it names the nearest one."""
    names = [field.name for field in fields(TrainConfig)]
    for name in settings:
        if name not in names:
            what = f"there is no setting {name!r}{nearest(str(name), names)}"
            raise ConfigError(what, where="config", expected=", ".join(names), fix="help(onestage.TrainConfig) explains them")
    return {name: value for name, value in settings.items() if value is not None}


def make_config(settings: Mapping[str, Setting]) -> TrainConfig:
    """The config with these settings, and the defaults for the others. Raise ConfigError for a value that is not possible."""
    lengths = [name for name in ("epochs", *LENGTHS) if name in settings]
    if len(lengths) > 1:
        got = ", ".join(f"{name} {settings[name]}" for name in lengths)
        fix = "give one of epochs=, steps= and minutes="
        raise ConfigError("two settings say how long to train", where=lengths[1], got=got, fix=fix)
    if "bad_limit" in settings and "on_bad" not in settings:
        settings = {**settings, "on_bad": "limit"}
    return TrainConfig(**settings)  # type: ignore[arg-type]  # it checks every value itself


def option(setting: str) -> str:
    """The option of the command line for a setting."""
    return f"--{setting.replace('_', '-')}"


def typed(setting: str, value: Setting) -> list[str]:
    """The options that give a setting this value, as they are typed, such as ``--fused``; several if it is repeated."""
    name = option(setting)
    if isinstance(value, bool):
        return [name if value else f"--no-{name[2:]}"]
    parts = [shlex.quote(str(part)) for part in (value if isinstance(value, tuple) else (value,))]
    return [f"{name} {part}" for part in parts] if setting == "augment_with" else [" ".join((name, *parts))]


def _usual(name: str) -> str:
    """What to do about a wrong value of a setting: give the usual one, or none."""
    usual = next(field.default for field in fields(TrainConfig) if field.name == name)
    return f"leave {name}= out" if usual is None else f"such as {name}={usual}"


def _rising(*values: float) -> bool:
    return all(a < b for a, b in pairwise(values))
