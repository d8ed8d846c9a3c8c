"""Ids of objects through time, with ByteTrack of the package trackers.

Shape letters: D detections of a frame.

Each class is followed apart from the others, so an id never changes its class, and objects of two classes never swap theirs.
The times of frames are used, so a variable frame rate, skipped and dropped frames are no fault. A new id needs a
sighting at the least score, and another one in the next frame. That one may be weaker, down to WEAK, as may those that continue
the id (Zhang et al. 2022, ByteTrack, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from onestage.errors import ConfigError
from onestage.structures import Detections

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

WEAK = 0.1
"""The least score of a detection that continues an id: the lower threshold of ByteTrack (section 4.1)."""
KEPT = 1.0
"""Seconds for which an object that is not seen keeps its id: 30 frames of a film of 30 per second (ByteTrack, section 4.1)."""
LEAST_OVERLAP = 0.1
"""The least IoU of a detection and where an object is expected."""
USUAL_RATE = 30.0


class Tracker:
    """Give ids to the detections of frames that come in the order of time. It remembers, so each film needs a new one.

    scores: what begins an id: as in ``Scores.reported`` the thresholds of the K classes, which are reached, or one score for
    all, which is surpassed. rate: frames per second that it gets, about: so many steps its idea of a movement makes in a
    second.
    """

    def __init__(self, scores: Sequence[float] | float, *, rate: float | Fraction | None = None) -> None:
        """Raise ConfigError if the package trackers is not installed."""
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            fix = 'pip install "onestage[tracking]"'
            raise ConfigError("the package trackers is not installed", got=error, fix=fix) from error
        self._make = ByteTrackTracker
        self._scores, self._rate = scores, float(rate or USUAL_RATE)
        self._of_class: dict[int, ByteTrackTracker] = {}
        self._ids: dict[tuple[int, int], int] = {}

    def least(self, label: int) -> float:
        """The least score of a class that begins an id: of a single score the next larger number that a detection can have."""
        if isinstance(self._scores, int | float):
            return float(np.nextafter(np.float32(self._scores), np.float32(np.inf)))
        return self._scores[label]

    def ids(self, found: Detections, time: float | Fraction) -> tuple[int | None, ...]:
        """The id of each of D detections, from 1, or None for those that no id is known of (yet). time: seconds."""
        ids: list[int | None] = [None] * len(found)
        labels = found.labels.tolist()
        for label in sorted({*labels, *self._of_class}):
            rows = [row for row, other in enumerate(labels) if other == label]
            for row, number in self._follow(found, label, rows, float(time)):
                ids[row] = number
        return tuple(ids)

    def _follow(self, found: Detections, label: int, rows: list[int], time: float) -> list[tuple[int, int]]:
        """Those of the rows of one class that have an id, with it."""
        from supervision import Detections as Supervised

        if label not in self._of_class:
            least = self.least(label)
            self._of_class[label] = self._make(
                lost_track_buffer=round(30 * KEPT),
                frame_rate=self._rate,
                track_activation_threshold=least,
                high_conf_det_threshold=least,
                minimum_iou_threshold=LEAST_OVERLAP,
            )
        mine = found.select(rows).numpy()
        boxes = np.asarray(mine.boxes, dtype=float).reshape(-1, 4)
        given = Supervised(boxes, confidence=np.asarray(mine.scores, dtype=float), data={"row": np.array(rows, dtype=int)})
        tracked = self._of_class[label].update(given, timestamp=time)
        if tracked.tracker_id is None or not len(tracked):
            return []
        pairs = zip(np.asarray(tracked.data["row"]).tolist(), tracked.tracker_id.tolist(), strict=True)
        return [(row, self._known(label, number)) for row, number in sorted(pairs) if number >= 0]

    def _known(self, label: int, number: int) -> int:
        """The id in the film of an id of one class."""
        return self._ids.setdefault((label, number), len(self._ids) + 1)
