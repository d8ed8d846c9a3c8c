"""Other settings for a run that goes on: what may change, and what follows for its length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onestage.data.loader import TrainLoader
from onestage.errors import ConfigError, counted, known_keywords
from onestage.training.config import EPOCHS, LENGTHS, Setting, TrainConfig, known_settings
from onestage.training.folder import Plan
from onestage.training.history import Change, with_steps
from onestage.training.rules import Chosen
from onestage.training.state import RunState

SAME_BITS = ("workers", "on_bad", "bad_limit", "log", "data")
"""Settings that leave the result as it is, to the bit, as long as no picture is bad."""
OF_LENGTH = ("epochs", "minutes", "batch_size")


@known_keywords
@dataclass(frozen=True)
class NewSettings:
    """Settings of a run that get another value when it goes on; None leaves them as they are.

    epochs, minutes: of the whole run, with what is done already. data: the place of the same pictures, if they have moved.
    """

    epochs: int | None = None
    minutes: float | None = None
    lr: float | None = None
    batch_size: int | None = None
    workers: int | None = None
    on_bad: str | None = None
    bad_limit: float | None = None
    log: str | None = None
    data: str | None = None

    @property
    def given(self) -> Mapping[str, int | float | str]:
        """The settings that get another value."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def left(self, history: Sequence[Change]) -> NewSettings:
        """Those that a plan with this history does not have yet."""
        last = {change.what: change.after for change in history}
        return NewSettings(**{name: value for name, value in self.given.items() if last.get(name) != value})  # type: ignore[arg-type]

    def of(self, train: TrainConfig) -> TrainConfig:
        """The settings of a training with these changes. Raise ConfigError for a value that is not possible."""
        if self.epochs is not None and self.minutes is not None:
            got = f"epochs {self.epochs}, minutes {self.minutes:g}"
            raise ConfigError("two settings say how long to train", got=got, fix="give one of epochs= and minutes=")
        changes: dict[str, int | float | str | None] = {name: value for name, value in self.given.items() if name != "data"}
        if self.bad_limit is not None or self.on_bad is not None:  # a limit alone is one; other words have none
            changes = {"on_bad": "limit", "bad_limit": None, **changes}
        if not any(name in changes for name in OF_LENGTH):
            return replace(train, **changes)  # type: ignore[arg-type]  # checked by TrainConfig
        fitted = train.minutes is not None
        kept = {"steps": None} | ({"evaluate_steps": None, "evaluate_pictures": None} if fitted else {})
        if self.minutes is not None:
            kept["epochs"] = EPOCHS  # type: ignore[assignment]
        if self.epochs is not None:
            kept["minutes"] = None
        return replace(train, **(kept | changes))  # type: ignore[arg-type]


NOTHING_NEW = NewSettings()


def went_on(
    settings: NewSettings, before: Plan, now: TrainConfig, state: RunState, *, loader: TrainLoader, old_epoch: int
) -> tuple[TrainConfig, tuple[Change, ...]]:
    """The settings with the length that follows, and the history of the plan with these changes.

    now: ``settings.of(before.train)``. loader: of the new settings. old_epoch: the steps of an epoch before. The position of
    ``state`` in its epoch is changed to the new batch size. Raise ConfigError if the run is longer than that already.
    """
    old = before.train
    changes = [
        Change(state.step, name, before.data if name == "data" else getattr(old, name), value)
        for name, value in settings.given.items()
    ]
    done = state.epoch + state.batch / old_epoch
    if len(loader) != old_epoch or now.batch_size != old.batch_size:
        state.batch = min(round(state.batch / old_epoch * len(loader)), len(loader))
    if not any(name in OF_LENGTH for name in settings.given):
        return now, (*before.history, *changes)
    total = old.steps or old.epochs * old_epoch
    if now.minutes is not None and settings.minutes is not None and 60 * now.minutes <= state.seconds:
        what, expected = "the run has worked for more minutes than that already", f"more than {state.seconds / 60:.3g}"
        raise ConfigError(what, where="minutes", got=now.minutes, expected=expected)
    if now.minutes is not None:
        return now, with_steps((*before.history, *changes), state.step, total, None)
    left = (now.epochs - done) * len(loader) if settings.epochs is not None else (total - state.step) * len(loader) / old_epoch
    steps = state.step + round(left)
    if settings.epochs is not None and steps <= state.step:
        raise ConfigError(
            "the run has more epochs than that already", where="epochs", got=now.epochs, expected=f"more than {done:.3g}"
        )
    now = replace(now, epochs=EPOCHS, steps=steps)
    return now, with_steps((*before.history, *changes), state.step, total, steps)


def told(settings: NewSettings, step: int, lost: Sequence[str] = ()) -> str:
    """A line for people: what changes, and whether the result is still that of the run without the changes. lost: the names of
    pictures that are gone.
    """
    without = [f"without {counted(len(lost), 'picture')} that cannot be read any more, such as {lost[0]}"] if lost else []
    given = [f"with {', '.join(f'{name} {value}' for name, value in settings.given.items())}"] if settings.given else []
    what, same = " and ".join(given + without), not lost and all(name in SAME_BITS for name in settings.given)
    ends = "the result stays the same to the bit" if same else "the result is no longer that of the run without this change"
    return f"from step {step} on {what}: {ends}. The plan keeps it"


def settings_of(
    config: TrainConfig | Chosen | Mapping[str, Setting] | None, epochs: int | None, planned: Plan | None
) -> Chosen | Mapping[str, Setting]:
    """All settings, with that number of epochs; or those that are given, where rules decide the others.

    planned: the plan of a run that goes on. If it has the minutes of the config, it has found the length that fits into them.
    """
    if isinstance(config, TrainConfig | Chosen):
        chosen = config if isinstance(config, Chosen) else Chosen(config)
    else:
        given = known_settings(config or {})
        if planned is None:
            return (
                given if epochs is None else {name: given[name] for name in given if name not in LENGTHS} | {"epochs": epochs}
            )
        chosen = replace(planned.chosen, train=replace(planned.train, **given))  # type: ignore[arg-type]  # it checks them
    if planned is not None:
        chosen = replace(chosen, train=planned.fitted(chosen.train))
    if epochs is None:
        return chosen
    return replace(chosen, train=replace(chosen.train, epochs=epochs, steps=None, minutes=None))
