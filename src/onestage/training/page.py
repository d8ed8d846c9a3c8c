"""The page of a run: index.html in its folder, one file that holds everything. It is written while the run trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onestage.data import Dataset
from onestage.data.tallies import objects_by_size
from onestage.errors import counted
from onestage.files import write_file
from onestage.metrics.page import as_base64, fill
from onestage.metrics.plots import class_curves
from onestage.metrics.wording import figure
from onestage.training.advice import FEW, Advice, ClassCount, Facts
from onestage.training.coverage import Coverage, told
from onestage.training.examples import SCORE, Examples
from onestage.training.folder import next_commands
from onestage.training.run import Run
from onestage.training.state import CLASS, Record, RunState

NAME = "index.html"
CLASS_TITLES = ("class", "to train", "to measure", "small", "medium", "large", "reached", "AP", "what to expect")
SETTING_TITLES = ("setting", "value", "reason", "changed by")
MOST_ROWS = 200
"""Classes in the table; of more, those with the most objects."""
MOST_PROBLEMS = 20
"""Problems of the data that are listed."""

STYLE = """  .note { margin: .5rem 0; padding: .6rem .9rem; border-left: .25rem solid #ffb000; background: var(--note); }
  .note { color: var(--ink); }
  .through td, .through th { padding: .2rem; border: 0; text-align: center; font-size: .85rem; }
  .through img { display: block; width: 100%; min-width: 8rem; max-width: 15rem; border-radius: .3rem; }
  td.words, th.words { text-align: left; }
  code { font-size: .9em; overflow-wrap: anywhere; }
"""

BODY = """<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
<div class="tiles">
{% for name, value in tiles %}  <div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}</div>
{% if advice %}<h2>Advice</h2>
{% for when, text, more in advice %}<p class="note">{{ when }}: {{ text }}{% for line in more %}<br>{{ line }}{% endfor %}</p>
{% endfor %}{% endif %}
<h2>Curves</h2>
{% for data in curves %}<figure><img src="data:image/png;base64,{{ data }}" alt="Curves of the training"></figure>
{% else %}<p>They come with the first measurement.</p>
{% endfor %}
<h2>The same pictures through the training</h2>
{% if columns %}<div class="wide"><table class="through">
<thead><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in pictures %}<tr>{% for data in row %}<td>{% if data %}\
<img src="data:image/jpeg;base64,{{ data }}" alt="A validation picture with boxes">{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p>Validation pictures, which the model does not learn from. Detections of a score of {{ score }} or more are drawn.</p>
{% else %}<p>They come with the first measurement.</p>
{% endif %}
<h2>Data</h2>
<p>{{ data_words }}</p>
<div class="wide"><table>
<thead><tr>{% for name in class_titles %}<th{% if loop.last %} class="words"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in classes %}<tr>{% for cell in row %}<td{% if loop.last %} class="words"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p>Small: an area below 32 × 32 pixels of the picture, medium: below 96 × 96. AP: of the last measurement.
Reached: objects that an anchor of the model reaches. {{ coverage_words }}</p>
{% if left_out %}<h2>Left out</h2>
<p>{{ left_out_words }}</p>
{% for line in left_out %}<p><code>{{ line }}</code></p>
{% endfor %}{% endif %}
<h2>Settings</h2>
<div class="wide"><table>
<thead><tr>{% for name in setting_titles %}<th class="words">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in settings %}<tr>{% for cell in row %}<td class="words">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for line in changes %}<p>{{ line }}</p>
{% endfor %}
<h2>Next</h2>
{% for what, command in commands %}<p>{{ what }}: <code>{{ command }}</code></p>
{% endfor %}</body>
</html>
"""


def save_page(
    run: Run, state: RunState, *, advice: Sequence[Advice], facts: Facts, examples: Examples, coverage: Coverage
) -> None:
    """Write the page of the run as it is now. Raise WriteError if the file cannot be written."""
    history = state.history
    steps = examples.steps
    pictures = zip(*(examples.drawings(step) for step in steps), strict=True)
    left_out = [str(problem) for problem in dict.fromkeys((*run.data.train.problems, *run.data.val.problems))]
    page = fill(
        BODY,
        style=STYLE,
        title=f"{run.model.config.name} on {run.data.train.root.name}",
        subtitle=_subtitle(run, state),
        tiles=list(_tiles(history)),
        advice=[_lines(one) for one in advice],
        curves=[as_base64(data) for data in _curves(run, history)],
        columns=[_column(step, history) for step in steps],
        pictures=[[data and as_base64(data) for data in row] for row in pictures],
        score=SCORE,
        data_words=_data_words(run),
        class_titles=CLASS_TITLES,
        coverage_words=told(coverage, fitted=run.has_fitted_anchors),
        classes=_class_rows(run.data.train, facts, history, coverage),
        left_out=left_out[:MOST_PROBLEMS],
        left_out_words=f"{counted(len(left_out), 'problem')}; all of them: {run.data.train.doctor}",
        settings=list(_settings(run)),
        setting_titles=SETTING_TITLES,
        changes=[f"Changed {change}" for change in run.changes],
        commands=list(_commands(run, state)),
    )
    write_file(run.folder / NAME, page.encode("utf-8", "replace"))


def _lines(advice: Advice) -> tuple[str, str, list[str]]:
    """When it was given, its first line, and the others."""
    first, *others = advice.text.splitlines()
    return f"after epoch {advice.epoch:g}" if advice.epoch else "at the start", first, others


def _subtitle(run: Run, state: RunState) -> str:
    """How far the run is."""
    done = f"step {state.step:,} of {run.steps:,}"
    minutes = f"{state.seconds / 60:.1f} minutes" if state.seconds else "no time yet"
    return f"{done} · {minutes} · {counted(len(run.data.train), 'picture')} to train, {len(run.data.val):,} to measure"


def _tiles(history: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """The figures at the top of the page: name and value."""
    if not history:
        return
    last = history[-1]
    aps = [row["val/AP"] for row in history if math.isfinite(row.get("val/AP", math.nan))]
    yield "epochs done", f"{last['epoch']:g}"
    if aps:
        yield "best AP, IoU .50:.95", figure(max(aps))
        yield "last AP", figure(aps[-1])
    for key, name in (("val/AP50", "last AP50"), ("loss", "training loss"), ("val/loss", "validation loss")):
        if math.isfinite(value := last.get(key, math.nan)):
            yield name, f"{value:.3f}"
    if math.isfinite(rate := last.get("images_per_s", math.nan)):
        yield "pictures a second", f"{rate:.1f}"


def _curves(run: Run, history: Sequence[Record]) -> Iterator[bytes]:
    """The curves of the run, which lie in its folder, and the curves of its classes."""
    if not history:
        return
    yield (run.folder / "curves.png").read_bytes()
    names = {CLASS + name: name for name in run.data.train.classes}
    known = {key: name for key, name in names.items() if any(key in row for row in history)}
    if len(known) > 1:
        yield class_curves(history, known)


def _column(step: int, history: Sequence[Record]) -> str:
    """What stands above the drawings of a step."""
    epoch = next((row["epoch"] for row in history if row["step"] == step), None)
    return "labels" if step == 0 else f"step {step}" if epoch is None else f"epoch {epoch:g}"


def _data_words(run: Run) -> str:
    """Where the pictures are, and how many have nothing to find."""
    train, val = run.data.train, run.data.val
    empty = int((train.offsets.diff() == 0).sum())
    where = run.data.path or f"made in Python: {train.root}"
    return (
        f"{where} · {counted(len(train), 'picture')} to train, {empty:,} of them without objects · {len(val):,} to measure"
        + (f" ({val.split})" if val.split else "")
    )


def _class_rows(train: Dataset, facts: Facts, history: Sequence[Record], coverage: Coverage) -> list[tuple[str, ...]]:
    """The table of classes, those with the most objects first."""
    cells = objects_by_size(train).tolist()
    last = next((row for row in reversed(history) if any(key.startswith(CLASS) for key in row)), {})
    rows = [
        (
            c.name,
            *(f"{number:,}" for number in (c.train, c.val, *sizes)),
            f"{int(100 * reached.share)} %" if reached.objects else "-",
            figure(last.get(CLASS + c.name, math.nan)),
            _expect(c),
        )
        for c, sizes, reached in zip(facts.classes, cells, coverage.classes, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda k: -facts.classes[k].train)
    return [rows[k] for k in order[:MOST_ROWS]]


def _expect(count: ClassCount) -> str:
    """What the number of objects of a class lets one expect; empty if there are enough."""
    said = []
    if count.train < FEW:
        said.append("few to learn from: AP will be low" if count.train else "none to learn from: it cannot be found")
    if not count.val:
        said.append("none to measure: AP says nothing of it")
    elif count.val < FEW:
        said.append(f"few to measure: AP is unsure, one object more or less found moves recall by {100 / count.val:.0f} points")
    if said:
        said.append(f"about {counted(count.lacking, 'more picture')} with it would do")
    return "; ".join(said)


def settings_of(run: Run) -> dict[str, str]:
    """The model, the data and every setting of the training, as text."""
    texts = {name: _value(value) for name, value in vars(run.config).items()}
    texts |= {name: value for name, (value, _) in _length(run).items()}
    return {"model": run.model.config.name, "data": run.data.train.root.name, **texts}


def _settings(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """The table of settings: first those that rules decided, with the reason and the option; then the others."""
    decided = {decision.setting for decision in run.decisions}
    for one in run.decisions:
        yield one.setting, one.value, one.reason, one.option
    length = _length(run)
    for name, value in vars(run.config).items():
        if name not in decided:
            yield name, *length.get(name, (_value(value), "")), ""


def _length(run: Run) -> dict[str, tuple[str, str]]:
    """The settings that follow from the steps or minutes of a run, its epochs and its steps: value and reason."""
    steps, minutes = run.config.steps, run.config.minutes
    fitted = "" if minutes is None else f"what fits into {minutes:g} min"
    if steps is None:
        return dict.fromkeys(("epochs", "steps"), ("not known yet", fitted)) if fitted else {}
    epochs = (f"{run.epochs:g}", f"follows from {counted(steps, 'step')} of {counted(len(run.loader), 'step')} an epoch")
    return {"epochs": epochs, **({"steps": (str(steps), fitted)} if fitted else {})}


def _value(value: object) -> str:
    """A setting for people."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "by default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _commands(run: Run, state: RunState) -> Iterator[tuple[str, str]]:
    """What to do with the run: what for, and the command."""
    if state.step < run.steps:
        yield "go on after an interruption", run.go_on
    yield from next_commands(run.folder, run.plan).items()
