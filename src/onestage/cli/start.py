"""What a new training starts from: the best weights at hand. Nothing is downloaded unasked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from onestage.cli.choose import AUTO, NONE, ModelChoice, choose_detector, make_model
from onestage.data import Dataset
from onestage.errors import WeightsError
from onestage.model.config import DetectorConfig
from onestage.model.detector import Detector
from onestage.training.machine import Machine
from onestage.training.rules import Decision
from onestage.weights.at_hand import Offer, offers
from onestage.weights.load_backbone import published_backbone
from onestage.weights.source import Source, open_weights


class Start(NamedTuple):
    """A detector with what it starts from, and why. trained: whether any of its weights were trained before."""

    model: Detector
    decision: Decision
    trained: bool


class Begun(NamedTuple):
    """A detector at its start. trained: whether any of its weights were trained before. decisions: how it was decided.

    seen: the pictures that the time is enough for, if the rules chose the detector.
    """

    model: Detector
    trained: bool
    decisions: tuple[Decision, ...] = ()
    seen: int | None = None


def choose_and_begin(asked: ModelChoice, data: Dataset, machine: Machine, *, minutes: float | None, seed: int) -> Begun:
    """The detector that the rules choose for the pictures to learn from, with its start.

    Trained weights that seem to be at hand may not fit, or cannot be fetched. Then it is chosen again, without them.
    """
    choose = partial(choose_detector, asked, data, machine, gpu=machine.device == "cuda", minutes=minutes)
    chosen, decisions, seen = choose()
    begun = begin(chosen, chosen.source(), data.classes, seed=seed)  # a tag has waited for the model
    if not begun.trained:
        before = chosen
        chosen, decisions, seen = choose(fresh=True)
        if chosen != before:
            begun = begin(chosen, chosen.source(), data.classes, seed=seed)
    return begun._replace(decisions=(*decisions, *begun.decisions), seen=seen)


def begin(detector: ModelChoice, source: Source | None, classes: tuple[str, ...], *, seed: int) -> Begun:
    """The detector with the weights that the user names, or with the best at hand."""
    if source is not None or detector.backbone_weights is not None:
        return Begun(make_model(classes, detector, source, seed=seed), trained=True)
    start = best_start(detector, classes, seed=seed)
    return Begun(start.model, start.trained, (start.decision,))


def best_start(asked: ModelChoice, classes: tuple[str, ...], *, seed: int) -> Start:
    """The detector for these classes with the best weights, for a user who names no weights.

    With --weights auto the best published ones are fetched. Why better ones are not taken is told: they could not be fetched,
    or do not fit a recipe with changed parts.
    """
    free, missed = replace(asked, weights=None), list[str]()
    if asked.weights == NONE:
        missed.append("as asked")
    else:
        for offer in _files(asked, asked.config(classes), missed):
            choice = _starting(free, offer)
            try:
                model = make_model(classes, choice, choice.source(), seed=seed)
            except WeightsError as error:
                missed.append(f"{offer.title} cannot be taken: {error.what}")
                continue
            reason = "; ".join([f"{offer.title}: the best on this machine", *missed])
            option = "--weights" if offer.setting == "weights" else "--backbone-weights"
            return Start(model, Decision("start", offer.title, reason, f"{option} {offer.name}"), trained=True)
    reason = "; ".join(["fresh weights", *(missed or [f"none are published for {free.config(classes).name}"])])
    return Start(
        make_model(classes, free, None, seed=seed),
        Decision("start", "fresh weights", reason, f"--weights {NONE}"),
        trained=False,
    )


def _files(asked: ModelChoice, config: DetectorConfig, missed: list[str]) -> Iterator[Offer]:
    """The offers that have a file, the best first; with --weights auto they are fetched. missed: gets why others have none."""
    fetching = asked.weights == AUTO
    for offer in offers(config):
        if offer.path is not None:
            yield offer
        elif fetching:
            try:
                yield _fetched(offer, config)
            except WeightsError as error:
                missed.append(f"{offer.title} could not be fetched: {error.got or error.what}")
                fetching = False
        elif not missed:
            missed.append(f"--weights {AUTO} fetches {offer.title}")


def _fetched(offer: Offer, config: DetectorConfig) -> Offer:
    """The offer with its file on this machine. Raise WeightsError if it cannot be fetched."""
    path = open_weights(config.name, offer.name).path if offer.setting == "weights" else published_backbone(config)
    return replace(offer, path=path)


def _starting(choice: ModelChoice, offer: Offer) -> ModelChoice:
    """The choice with weights that are on this machine."""
    return (
        replace(choice, weights=offer.name) if offer.setting == "weights" else replace(choice, backbone_weights=str(offer.path))
    )
