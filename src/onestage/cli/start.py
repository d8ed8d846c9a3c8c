"""What a new training starts from: the best weights at hand. Nothing is downloaded unasked."""

from __future__ import annotations

from dataclasses import replace

from onestage.cli.choose import AUTO, NONE, ModelChoice
from onestage.errors import WeightsError
from onestage.model.config import DetectorConfig
from onestage.training.rules import Decision
from onestage.weights.at_hand import Offer, offers
from onestage.weights.load_backbone import published_backbone
from onestage.weights.source import open_weights


def best_start(asked: ModelChoice, config: DetectorConfig) -> tuple[ModelChoice, Decision]:
    """The choice with the best weights for a detector of this config, and why these, for a user who names no weights.

    With --weights auto the best published ones are fetched. If that fails, the reason is told.
    """
    free = replace(asked, weights=None)
    if asked.weights == NONE:
        return free, _told("fresh weights", "as asked")
    found = [*offers(config)]
    at_hand = next((offer for offer in found if offer.path is not None), None)
    if asked.weights == AUTO and found and at_hand is not found[0]:
        try:
            return _starting(free, _fetched(found[0], config)), _told(found[0].title, "the best that are published")
        except WeightsError as error:
            trouble = f"could not be fetched: {error.got or error.what}"
            if at_hand is None:
                return free, _told("fresh weights", f"{found[0].title} {trouble}")
    if at_hand is not None:
        return _starting(free, at_hand), _told(at_hand.title, "the best weights on this machine")
    if not found:
        return free, _told("fresh weights", f"none are published for {config.name}")
    return free, _told("fresh weights", f"--weights {AUTO} fetches {found[0].title}")


def _told(value: str, reason: str) -> Decision:
    return Decision("start", value, reason, "--weights")


def _fetched(offer: Offer, config: DetectorConfig) -> Offer:
    """The offer with its file on this machine. Raise WeightsError if it cannot be fetched."""
    path = open_weights(config.name, offer.name).path if offer.setting == "weights" else published_backbone(config)
    return replace(offer, path=path)


def _starting(choice: ModelChoice, offer: Offer) -> ModelChoice:
    """The choice with weights that are on this machine."""
    return (
        replace(choice, weights=offer.name) if offer.setting == "weights" else replace(choice, backbone_weights=str(offer.path))
    )
