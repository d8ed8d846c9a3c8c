"""``onestage train``: from labelled pictures to a run folder."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

from onestage.cli.anchors import fitted
from onestage.cli.choose import NO_CHOICE, ModelChoice, tuned_settings
from onestage.cli.output import stdout, tell
from onestage.cli.ranks import ONE, Ranks, are_to_start, start_ranks
from onestage.cli.settings import NOTHING_GIVEN, Settings, given_settings
from onestage.errors import ConfigError, DataError, ProblemsError, absent, check_folder_place, counted, warn_outside
from onestage.training.config import Setting, option

if TYPE_CHECKING:
    from onestage.model.detector import Detector
    from onestage.processes import Distributed
    from onestage.training.going_on import NewSettings
    from onestage.training.inputs import TrainData
    from onestage.training.loop import TrainResult
    from onestage.training.machine import Machine
    from onestage.training.rules import Chosen
    from onestage.weights.source import Source

RUNS = Path("runs")


def train(
    data: tyro.conf.Positional[Path | None] = None,
    /,
    *,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    resume: Path | None = None,
    accept_changes: bool = False,
    format: Literal["coco", "voc", "yolo", "csv", "labelme", "wds", "parquet"] | None = None,
    detector: ModelChoice = NO_CHOICE,
    fit_anchors: bool = False,
    plan_only: bool = False,
    processes: Ranks = ONE,
    training: Settings = NOTHING_GIVEN,
) -> int:
    """Learn to detect the objects of a labelled data set. What you leave out is decided by rules, and told with the reason.

    onestage train pictures/

    onestage train pictures/ --model ssd --backbone timm/resnet34 --size 300x400 --minutes 10 --out runs/x

    Ctrl-C saves and stops; onestage train --resume runs/x goes on. It takes --epochs, --minutes, --lr, --batch-size, --workers,
    --on-bad, --bad-limit, --log, and as DATA the place to which the data has moved. On several GPUs: --processes 4. On several
    machines: docs/scaling.md.

    Args:
        data: the data set's folder or file: COCO JSON, Pascal VOC, YOLO, CSV, LabelMe, or tar or Parquet shards
        out: run folder for models, curves and numbers; by default runs/MODEL-1, -2, ...
        resume: go on with the interrupted run in this folder; the folder knows the data and the settings
        accept_changes: with --resume: go on though pictures have changed since the run began
        format: the data set's format, if it is not recognised
        fit_anchors: first fit the shapes of the anchors to the training pictures, as onestage data anchors does
        plan_only: say what would be decided, and end
    """
    given = given_settings(training)
    if are_to_start(processes) and (resume or data) is not None:
        return _start_ranks(processes, resume, out, detector, plan_only=plan_only)
    if resume is not None:
        others = {"--out": out, "--format": format, "--model and its like": detector != NO_CHOICE}
        others |= {"--fit-anchors": fit_anchors, "--plan-only": plan_only}
        return _go_on_with(resume, data, given, others, accept_changes=accept_changes)
    if accept_changes or data is None:
        raise _no_new_run(accept_changes)
    given = tuned_settings(detector.config_file) | given
    prepare = partial(_prepared, data, detector, given, format, fit=fit_anchors)
    return _tell_plan(prepare, given) if plan_only else _start(prepare, given, out, fit=fit_anchors)


def _start_ranks(ranks: Ranks, resume: Path | None, out: Path | None, detector: ModelChoice, *, plan_only: bool) -> int:
    """The same command in several processes. They agree on the run folder that is chosen here."""
    folder = resume or out or _free_folder(Path(detector.named or "train").name)
    more = () if plan_only or folder in (resume, out) else ("--out", str(folder))
    return start_ranks(ranks, out=folder, more=more)


def _no_new_run(accept_changes: bool) -> ConfigError:
    """The error for a command that neither begins a run nor goes on with one."""
    if accept_changes:
        return ConfigError("--accept-changes is for a run that goes on", fix="add --resume RUN, or leave it out")
    return ConfigError("no data set is named", fix="onestage train DATA, or --resume RUN")


class Prepared(NamedTuple):
    """All that a training needs: the pictures, the detector that starts, and the settings. trained: whether any of its weights
    were trained before.
    """

    pictures: TrainData
    model: Detector
    chosen: Chosen
    trained: bool


def _joined(given: Mapping[str, Setting]) -> Distributed:
    """The group of this process, joined already: several processes measure the machine together, to decide the same."""
    from onestage.processes import init
    from onestage.training.rules import before_data

    config = before_data(given)
    return init(config.device, timeout=1.1 * config.worker_timeout)


def _prepared(
    data: Path,
    detector: ModelChoice,
    given: Mapping[str, Setting],
    format: str | None,
    group: Distributed,
    *,
    fit: bool = False,
) -> Prepared:
    """Read the data, decide what was left open, and make the detector. fit: fit its anchors to the pictures."""
    from onestage.training.agreement import check_alike, of_settings
    from onestage.training.inputs import read_data
    from onestage.training.loggers import check_installed
    from onestage.training.machine import measure_together
    from onestage.training.rules import before_data

    if not data.exists() and detector == NO_CHOICE:  # before anything is looked for
        raise DataError(absent(data), where=data, fix="correct the path of the data set")
    source = detector.source()
    if detector.named is not None or source is not None:
        _check_recipe(detector, source)
    config = before_data(given)
    options = {option(name): value for name, value in vars(detector).items()}
    check_alike(group, lambda: {**of_settings(given), **options, "--format": format, "--fit-anchors": fit})
    check_installed(config.log)
    pictures = read_data(data, config, format=format)
    return prepared(pictures, measure_together(group), detector, given, source=source, fit=fit)


def prepared(
    pictures: TrainData,
    machine: Machine,
    detector: ModelChoice,
    given: Mapping[str, Setting],
    *,
    source: Source | None,
    fit: bool = False,
) -> Prepared:
    """The detector for the pictures on this machine, at its start, and all settings. source: the weights that ``detector``
    names. fit: fit its anchors to the pictures.
    """
    from onestage.cli.start import begin, choose_and_begin
    from onestage.processes import Launch
    from onestage.training.rules import Facts, before_data, decide

    config = before_data(given)
    if detector.named is None and source is None:
        begun = choose_and_begin(detector, pictures.train, machine, minutes=config.minutes, seed=config.seed)
    else:
        begun = begin(detector, source, pictures.train.classes, seed=config.seed)
    model, decisions = begun.model, begun.decisions
    if config.freeze and not begun.trained and Launch.from_environment().is_main:
        warn_outside(["what is frozen has no weights that were trained: give --weights or --backbone-weights"])
    if fit:
        model, decision = fitted(model, pictures.train, seed=config.seed)
        decisions = (*decisions, decision)
    facts = Facts.of(pictures.train, pictures.val, machine=machine, seen=None if config.minutes is None else begun.seen)
    chosen = decide(model, facts, given=given)
    return Prepared(pictures, model, replace(chosen, decisions=(*decisions, *chosen.decisions)), begun.trained)


def _tell_plan(prepare: Callable[[Distributed], Prepared], given: Mapping[str, Setting]) -> int:
    """Print what would be decided, of several processes once."""
    with _joined(given) as group:
        prepared = prepare(group)
        if group.is_main:
            _tell(prepared)
    return 0


def _tell(prepared: Prepared) -> None:
    """Print what was decided."""
    from onestage.data.problems import left_out_of
    from onestage.training.coverage import coverage_of, told
    from onestage.training.left_out import summary
    from onestage.training.monitor import TerminalMonitor
    from onestage.training.rules import ANCHORS

    train_set, val_set = prepared.pictures.train, prepared.pictures.val
    model, decisions = prepared.model, prepared.chosen.decisions
    tell(f"{model.config.name} on {counted(len(train_set), 'picture')} to learn from, {len(val_set)} to measure on")
    TerminalMonitor().decided(decisions)
    if lost := summary(left_out_of(train_set, val_set)):
        tell(f"left out: {lost}; see them: {train_set.doctor}")
    tell(told(coverage_of(model, train_set), fitted=ANCHORS in [decision.setting for decision in decisions]))


def _start(
    prepare: Callable[[Distributed], Prepared], given: Mapping[str, Setting], out: Path | None, *, fit: bool = False
) -> int:
    """Train a new run. After a crash, torchrun gives the same command again: then train the rest of the run in ``out``."""
    from onestage.processes import Launch
    from onestage.training.agreement import check_alike, of_command
    from onestage.training.clock import running
    from onestage.training.job import is_again
    from onestage.training.loop import train as run_training
    from onestage.training.memory import keep_freed_memory

    launch = Launch.from_environment()
    if out is None and launch.world > 1:
        raise ConfigError("several processes need to agree on one folder", fix="--out runs/NAME")
    if fit and launch.world > 1:
        fix = "onestage data anchors DATA --model NAME --out FILE, then --config FILE in place of --fit-anchors and --model"
        raise ConfigError("several processes need the same anchors, so fit them before", got="--fit-anchors", fix=fix)
    if out is not None:
        check_folder_place(out, "a folder for the run", fix="choose another folder: --out")
    keep_freed_memory()
    with _joined(given) as group:
        check_alike(group, partial(of_command, out, goes_on=False))
        if out is not None and is_again(group, out) and group.on_main(partial(_has_begun, out)):
            return _go_on(out)
        pictures, model, chosen, _ = prepare(group)
        pictures = replace(pictures, seconds=max(pictures.seconds, running()))  # minutes count from the start of the process
        return _close(run_training(model, pictures, out=out or _free_folder(model.config.name), config=chosen))


def _has_begun(run: Path) -> bool:
    """Whether a run folder has a checkpoint from which the run can go on."""
    from onestage.training.checkpoint import CheckpointStore

    return CheckpointStore(run).noted("data") is not None


def _go_on_with(
    run: Path, data: Path | None, given: Mapping[str, Setting], others: Mapping[str, object], *, accept_changes: bool
) -> int:
    """The rest of a run with other settings. Raise ConfigError if some are given that cannot change. others: such options and
    their values.
    """
    from onestage.training.going_on import NewSettings

    names = NewSettings.__dataclass_fields__
    refused = [name for name, value in others.items() if value not in (None, False)]
    wrong = [*(option(name) for name in given if name not in names), *refused]
    if wrong:
        raise _no_other_settings(run, wrong)
    place = None if data is None else str(data)
    return _go_on(run, accept_changes=accept_changes, settings=NewSettings(**given, data=place))  # type: ignore[arg-type]


def _go_on(run: Path, *, accept_changes: bool = False, settings: NewSettings | None = None) -> int:
    """The rest of an interrupted run. settings: those that change."""
    from onestage.training.folder import again
    from onestage.training.going_on import NOTHING_NEW
    from onestage.training.loop import resume
    from onestage.training.memory import keep_freed_memory

    keep_freed_memory()
    try:
        return _close(resume(run, accept_changes=accept_changes, settings=settings or NOTHING_NEW))
    except ProblemsError as error:
        error.fix = (
            "put the data set back as it was when this run began; or go on without pictures that are lost: onestage train"
            f" --resume {shlex.quote(str(run))} --on-bad skip; or begin a new run on what is left:"
            f" {again(run, '--on-bad', 'skip')}"
        )
        raise


def _no_other_settings(run: Path, given: Sequence[str]) -> ConfigError:
    """The error for a run to go on with for which settings are given that cannot change."""
    from onestage.training.folder import Plan, again
    from onestage.training.going_on import NewSettings

    Plan.load(run)  # raises if there is no run
    what, taken = "--resume goes on with its run, and these cannot change", [*NewSettings.__dataclass_fields__]
    expected = f"DATA that has moved, {', '.join(option(name) for name in taken if name != 'data')}"
    fix = f"leave them out, or begin another run: {again(run)}"
    return ConfigError(what, where=run, got=", ".join(given), expected=expected, fix=fix)


def _check_recipe(detector: ModelChoice, source: Source | None) -> None:
    """A misspelt setting is an error before the data is read. So are parts that do not fit, if no file brings other parts."""
    import torch

    from onestage.model.detector import Detector

    config = detector.config(("object",), source)
    if source is None:
        with torch.device("meta"):
            Detector(config)


def _free_folder(name: str) -> Path:
    """runs/NAME-1, or the next number that is free."""
    number = 1
    while (RUNS / f"{name}-{number}").exists():
        number += 1
    return RUNS / f"{name}-{number}"


def _close(result: TrainResult) -> int:
    """Print where everything is, and what to do next. After an interruption, the loop has already printed how to continue."""
    from onestage.processes import Launch

    if result.interrupted:
        return 130
    if not Launch.from_environment().is_main:
        return 0
    unmeasured = result.report is not None and math.isnan(result.report.coco.AP)
    best = "the last model; AP could not be measured" if unmeasured else f"best validation AP {result.best_ap:.3f}"
    stdout().print()
    tell((best, "bold"), f" after {result.seconds / 60:.1f} min")
    for what, text in _what_there_is(result).items():
        tell(f"  {what:<11} {text}")
    return 0


def _what_there_is(result: TrainResult) -> dict[str, str]:
    """The model, the page of the run if it could be written, and the next commands."""
    from onestage.training.folder import Plan, next_commands

    folder = result.folder
    page = next((str(folder / name) for name in ("index.html", "curves.png") if (folder / name).exists()), None)
    return {
        "model": str(result.best),
        **({} if page is None else {"look at": page}),
        **next_commands(folder, Plan.load(folder)),
    }
