"""The database of a search and its lock, which several processes and machines share, and how trials are drawn."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from urllib.parse import quote

import optuna
from filelock import FileLock, Timeout
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from onestage.errors import ConfigError, absent, shortened
from onestage.tuning.space import Value

STORAGE = "study.db"
NAME = "onestage"
LOCK = ".tune.lock"
HEARTBEAT, GRACE = 30, 120
"""Seconds between two signs of life of a trial, and after how many without one it counts as lost."""
PATIENCE = 60.0
"""Seconds to wait for another process that has the database."""
STARTUP = 4
"""Trials before any is stopped early, and after which the sampler learns from them."""
SPREAD = 7919
"""Between the seeds of two trials."""


_DAMAGED = "put a copy of the database back, or begin another search: --out"
_CLOSED = "allow this user to write it and its folder; the same command goes on"
_FULL = "make room on it; the same command goes on"


class _Sampler(BaseSampler):
    """Optuna's TPE. Its random numbers follow from the seed of the search and the number of the trial, which no other has."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the random numbers of a trial."""
        seed = self._seed + SPREAD * trial.number
        self._inner = TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Value]:
        """The values that are drawn together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Value:
        """A value that is drawn by itself."""
        value: Value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return value


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """A block that one process of a search runs at a time. Raise ConfigError if it does not get to it in time, or if files
    cannot be locked.
    """
    lock = FileLock(out / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        what, fix = "another process has had the lock of this search for a minute", "end that process"
        raise ConfigError(what, where=out / LOCK, got=f"waited {PATIENCE:.0f} s", fix=fix) from error
    except NotImplementedError as error:
        raise ConfigError("files cannot be locked in this folder", where=out, fix="another folder: --out") from error
    try:
        yield
    finally:
        lock.release()


def open_study(out: Path, storage: str | None, *, name: str, seed: int) -> optuna.Study:
    """The trials in a folder, or in another storage, where they have the name of the search. Raise ConfigError if it cannot be
    opened.
    """
    with locked(out):
        kept = _opened(out, storage)
    with understood(out, storage):
        return optuna.create_study(
            storage=kept,
            study_name=NAME if storage is None else name or f"{NAME} {out.resolve()}",
            sampler=_Sampler(seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1),
            direction="maximize",
            load_if_exists=True,
        )


def try_storage(out: Path, storage: str | None) -> None:
    """Raise ConfigError unless the database of a search can be opened and written: the first trial comes after minutes of work.
    Where the folder has none yet, nothing is tried, and nothing is made there.
    """
    from sqlalchemy import text

    if storage is None and not (out / STORAGE).exists():
        return
    with locked(out) if out.is_dir() else nullcontext(), understood(out, storage):
        try:
            kept = _opened(out, storage)
        except ConfigError as error:
            if "already exists" not in str(error.got):  # tables that another process has made at the same time
                raise
            kept = _opened(out, storage)
        try:
            with kept.engine.connect() as base:
                base.execute(text("UPDATE studies SET study_name = study_name WHERE 1 = 0"))
        finally:
            kept.engine.dispose()


def _opened(out: Path, storage: str | None) -> optuna.storages.RDBStorage:
    """The database, with empty tables if it is new. Raise ConfigError if it cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = (out / STORAGE).resolve() if storage is None else _file_of(storage)  # a path: signs mean something in addresses
    patient = _ways_into(str(file)) if storage is None else {}
    try:
        with warnings.catch_warnings(), understood(out, storage):
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if file is not None:
                _check_whole(file)
            return optuna.storages.RDBStorage(storage or "sqlite://", patient, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except Exception as error:  # of the database, whichever it is
        if isinstance(error, ConfigError):
            raise
        fix = "sqlite:///FILE, or the address of a database of which its Python package is installed"
        where, got = (str(file), str(error)) if storage is None else without_password(storage, str(error))
        raise ConfigError("the storage of the trials cannot be opened", where=where, got=got, fix=fix) from None


def _file_of(storage: str) -> Path | None:
    """The file of an SQLite database by its address; None for other databases and what is no address. Raise ConfigError if it
    would be in memory, or if there can be no such file.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(storage)
    except (ArgumentError, ValueError):  # who opens it says so
        return None
    if not parts.drivername.startswith("sqlite"):
        return None
    name = parts.database or ":memory:"
    if ":memory:" in name or parts.query.get("mode") == "memory":
        what, fix = "a database in memory ends with this command, and its trials with it", "sqlite:///FILE, or leave it out"
        raise ConfigError(what, where="--storage", got=storage, fix=fix)
    if name.startswith("file:"):  # an address inside the address, which SQLite reads
        return None
    file = Path(name).resolve()
    if file.is_dir():
        fix = f"such as sqlite:///{Path(name) / STORAGE}"
        raise ConfigError("this is a folder", where=file, expected="the file of a database", fix=fix)
    if not file.parent.is_dir():
        what = absent(file.parent, "there is no such folder to write a database into")
        raise ConfigError(what, where=file.parent, fix="make the folder first, or name another file")
    return file


Kind = Callable[[object], bool]
"""Whether a value is what stands by that name."""


def _check_whole(file: Path) -> None:
    """Raise ConfigError if pages of an SQLite file are damaged. Without this look, those that are read later would tell it."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", timeout=1.0, uri=True)) as base:
            found = str(base.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error:  # such as one that is not there yet, or is no database: those who use it hear that too
        return
    if found != "ok":
        got = found.partition("\n")[2] or found
        raise ConfigError("the database of this search is damaged", where=file, got=got, fix=_DAMAGED)


def check_trials(trials: Sequence[FrozenTrial], kinds: Mapping[str, Kind], *, needed: Sequence[str], where: Path) -> None:
    """Raise ConfigError if what is kept with a trial is of another kind, or if a complete trial has not all that is needed: the
    database is damaged, or another program wrote there.
    """
    for trial in trials:
        known, done = trial.user_attrs, trial.state is TrialState.COMPLETE
        wrong = [f"{name}: {known[name]!r}" for name, is_right in kinds.items() if name in known and not is_right(known[name])]
        wrong += [f"no {name}" for name in needed if done and name not in known]
        wrong += ["no AP"] if done and trial.value is None else []
        if wrong:
            what = "a trial of this search is damaged, or another program has changed it"
            got = shortened("; ".join(wrong), 300)
            raise ConfigError(what, where=f"trial {trial.number} of {where}", got=got, fix=_DAMAGED)


FAULTS = (
    (("not a database", "malformed", "no such table", "no such column"), "the database of this search is damaged", _DAMAGED),
    (
        ("locked", "busy"),
        "another process keeps the database of this search to itself",
        "end that process; the same command goes on",
    ),
    (("readonly", "read-only", "unable to open", "permission"), "the database of this search cannot be written", _CLOSED),
    (("disk is full", "disk i/o"), "the disk of the database of this search is full or fails", _FULL),
)
"""What the package of a database says, what that means, and what to do."""


@contextmanager
def understood(out: Path, storage: str | None) -> Iterator[None]:
    """A block in which errors of the database are told in our words. Raise ConfigError for them."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        cause: BaseException = error
        while not isinstance(cause, DBAPIError) and (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        text = str(cause.orig if isinstance(cause, DBAPIError) else error).partition("\n")[0]
        where, text = (str(out / STORAGE), text) if storage is None else without_password(storage, text)
        usual = "the database of this search cannot be used", "see whether it can be reached; the same command goes on"
        what, fix = next((each[1:] for each in FAULTS if any(word in text.lower() for word in each[0])), usual)
        raise ConfigError(what, where=where, got=text, fix=fix) from None


def without_password(url: str, text: str = "") -> tuple[str, str]:
    """The address of a database and what was said of it, without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return "--storage", "this is no address of a database"
    for secret in (parts.password, quote(parts.password or "")):
        text = text.replace(str(secret), "***") if secret else text
    return parts.render_as_string(hide_password=True), text


def _ways_into(file: str) -> dict[str, object]:
    """How SQLAlchemy opens an SQLite file by its path. The heartbeat of a trial is a separate thread, and a pool for
    a database in memory, which the address alone means, would close connections in threads that did not open them.
    """
    from sqlalchemy.pool import NullPool

    return {"creator": partial(sqlite3.connect, file, timeout=PATIENCE, check_same_thread=False), "poolclass": NullPool}
