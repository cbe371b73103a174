"""Notes, learning curves and schedules for the dashboard."""

import csv
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from conductor.search.arm import Arm
from conductor.search.promotion.rungs import rungs_of
from kd.protocol import Protocol
from kd.recipe import Recipe, Schedule
from kd.training.history import EpochMetrics
from reports.wording import Measure, measure, model_name
from storage.files.records import RunRecord
from storage.studies.optuna_internals import StoredTrial, trial_id_of
from storage.studies.studies import system_attributes
from storage.studies.trials import AUDITOR, CONTINUES, REPEATS, RUN

WIDTH, HEIGHT = 360, 200  # of a panel, in pixels
MARGIN = 44
PANELS = {  # field of an epoch's metrics: the title of its curve
    "objective": "validation {metric}",
    "temperature": "temperature",
    "alpha": "alpha",
    "lr": "learning rate",
}


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes to the dashboard; `artifacts` is the folder of Optuna's artifact store."""

    protocol: Protocol
    artifacts: Path

    def study(self, arm: Arm) -> None:
        """Give the arm's study a note, unless it has one."""
        from optuna_dashboard import get_note, save_note

        if not get_note(arm.study):
            save_note(arm.study, study_note(arm, self.protocol))

    def trial(self, arm: Arm, number: int, record: RunRecord) -> None:
        """Give a trial that is about to end a note and its curves, as a picture and as a table.

        Optuna accepts no artifacts for an ended trial; publishing again changes nothing.
        """
        from optuna_dashboard import save_note

        trial, words = arm.ledger.stored_trial(number), measure(self.protocol.metric)
        save_note(_NoteTarget(trial), trial_note(arm, number, record, words))
        if not record.history:
            return
        published = {artifact.filename for artifact in get_all_artifact_meta(trial)}
        self.artifacts.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(self.artifacts)
        with tempfile.TemporaryDirectory() as folder:
            for path in _write(Path(folder), record.history, words):
                if path.name not in published:
                    upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


class _NoteTarget:
    """A trial for `save_note`, whose storage has only the notes of this trial.

    Optuna keeps the notes of all trials with the study, and `save_note` would read all of them.
    """

    def __init__(self, trial: StoredTrial) -> None:
        self.study, self.storage = trial.study, self
        self._trial_id, self._storage = trial_id_of(trial), trial.storage

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return system_attributes(self._storage, study_id, f"dashboard:{self._trial_id}:")

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(study_id, key, value)


def _write(folder: Path, history: list[EpochMetrics], metric: Measure) -> Iterable[Path]:
    picture, table = folder / "curves.svg", folder / "epochs.csv"
    picture.write_text(curves(history, metric), encoding="utf-8")
    rows = [{**each.to_json(), "objective": _value(each, metric)} for each in history]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return picture, table


def _value(metrics: EpochMetrics, metric: Measure) -> float:
    """Return the metric's own value after an epoch."""
    return metric.sign * metrics.objective + 0.0  # never -0.0


def curves(history: list[EpochMetrics], metric: Measure) -> str:
    """Return an SVG picture of validation metric and schedules against the epoch.

    It is a picture because the dashboard shows pictures and no pages.
    """
    drawn = {name: [getattr(metrics, name) for metrics in history] for name in PANELS}
    drawn["objective"] = [_value(metrics, metric) for metrics in history]
    panels = [
        _panel(PANELS[name].format(metric=metric.name), values, index)
        for index, (name, values) in enumerate(drawn.items())
    ]
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT}" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#333"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>'
    )


def _panel(title: str, values: list[float], index: int) -> str:
    """Draw one curve, with the smallest and largest value on the axis."""
    low, high = min(values), max(values)
    across = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    down = (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    points = [
        (MARGIN + across * epoch, HEIGHT - MARGIN - down * (value - low))
        for epoch, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    labels = [(high, MARGIN)] if low == high else [(high, MARGIN), (low, HEIGHT - MARGIN)]
    axis = "".join(
        f'<text x="{MARGIN - 6}" y="{place + 4}" text-anchor="end">{value:.4g}</text>'
        for value, place in labels
    )
    return (
        f'<g transform="translate({index % 2 * WIDTH} {index // 2 * HEIGHT})">'
        f'<text x="{MARGIN}" y="24" font-size="13" font-weight="600">{escape(title)}</text>{axis}'
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" '
        f'stroke="#bbb"/><polyline points="{line}" fill="none" stroke="#0072b2" '
        f'stroke-width="2"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">'
        f"epoch {len(values)}</text></g>"
    )


def study_note(arm: Arm, protocol: Protocol) -> str:
    teach = "teaches" if len(protocol.teachers) == 1 else "teach"
    promotion = not arm.decisions.method.sampler
    return (
        f"# {arm.study.study_name}\n\n"
        f"Arm `{arm.name}`: {' and '.join(protocol.teachers)} {teach} "
        f"{' or '.join(protocol.students)} on {_plain(model_name(protocol.dataset))}, "
        f"{protocol.epochs} epochs a {'run' if promotion else 'trial'}, batches of "
        f"{protocol.batch_size}. The objective is the "
        f"validation {measure(protocol.metric).maximised}, after the last epoch.\n\n"
        f"{_how_it_is_searched(protocol.epochs) if promotion else ''}"
        "The best score here is **too good**, because it was selected. The study's report "
        "compares the arms on fresh seeds."
    )


def _how_it_is_searched(horizon: int) -> str:
    """Explain what a trial of the search by promotion is, and what its states mean."""
    *rungs, _ = rungs_of(horizon)
    if not rungs:
        return f"Every trial is one run to epoch {horizon}: COMPLETE.\n\n"
    return (
        "The search is by promotion. A trial trains one run from one epoch to another:\n\n"
        f"- **PRUNED**: paused after epoch {' or '.join(map(str, rungs))}. The best third of the "
        "runs there go on, by the early signal (`early_signal`). Such a run goes on as a new trial "
        "with the same parameters and the reports so far, whose attribute `continues` is the "
        "number of the paused one.\n"
        f"- **COMPLETE**: at the horizon, epoch {horizon}. Only these have the final score.\n"
        "- `run` is the number of a run's first trial. `repeats` is the run whose recipe is "
        "trained again on another seed, as the best are. An `auditor` is a new recipe that goes to "
        "the horizon at once, to see whether the early signal can be trusted.\n\n"
        "To compare curves, take the last trial of each run: it has all of its epochs.\n\n"
    )


def trial_note(arm: Arm, number: int, record: RunRecord, words: Measure) -> str:
    titles = dict(enumerate(arm.decisions.space.enqueued))
    head = f"{arm.name} {number}" + (f" ({_plain(titles[number])})" if number in titles else "")
    value = words.value(record.objective(words.worst), 1)
    told = arm.decisions.trial(number).user_attrs
    lines = [
        f"# {head}: {record.outcome} at {value}",
        "",
        *(f"- {line}" for line in describe(record.recipe)),
        *(f"- {line}" for line in _job(arm, number, record)),
    ]
    if told.get(AUDITOR):
        lines.append("- an auditor: goes to the horizon whatever is seen before")
    if record.reason:
        lines.append(f"- {_plain(record.reason)}")
    return "\n".join(lines)


def _job(arm: Arm, number: int, record: RunRecord) -> list[str]:
    """Say which epochs a trial trained, in which time, and of which run."""
    told = arm.decisions.trial(number).user_attrs
    before = told.get(CONTINUES)
    if before is None:
        lines = [f"{len(record.history)} of {record.horizon} epochs, {record.seconds:.1f} s"]
    else:
        begun = arm.decisions.begun(number)
        seconds = sum(epoch.seconds for epoch in record.history[begun:])
        lines = [
            f"epochs {begun + 1} to {len(record.history)} of {record.horizon}, {seconds:.1f} s",
            f"goes on where {arm.name} {before} was paused; the run was begun as "
            f"{arm.name} {told[RUN]}",
        ]
    if REPEATS in told:
        lines.append(f"the recipe of {arm.name} {told[REPEATS]} on another seed")
    if record.outcome == "paused":
        lines.append(
            f"paused at a rung: a later trial that goes on has the attribute `continues` {number}"
        )
    return lines


def _plain(text: object) -> str:
    """Escape text from outside: the dashboard renders the HTML, links and pictures of a note."""
    line = " ".join(str(text).encode(errors="backslashreplace").decode().split())
    return re.sub(r"([\\`\[\]])", r"\\\1", escape(line, quote=False))


def describe(recipe: Recipe) -> list[str]:
    """Describe a recipe in a few lines."""
    lines = [f"student `{recipe.student}`"] if recipe.student else []
    lines += [
        f"learning rate {recipe.lr:.3g}, weight decay {recipe.weight_decay:.3g}, "
        f"label smoothing {recipe.label_smoothing:.3g}"
    ]
    if recipe.soft_kind != "none":
        lines.append(f"soft loss `{recipe.soft_kind}`{_own(recipe.soft_parameters)}")
        lines.append(f"temperature {_describe_schedule(recipe.temperature)}")
        lines.append(f"alpha {_describe_schedule(recipe.alpha)}")
    if recipe.feature_kind != "none":
        taps = " + ".join(recipe.feature_taps)
        loss = f"feature loss `{recipe.feature_kind}`{_own(recipe.feature_parameters)}"
        lines.append(f"{loss} at {taps}, {recipe.feature_weight:.3g}")
    return lines


def _own(parameters: Mapping[str, Any]) -> str:
    """Return a loss's own parameters, in brackets: ` (non_target_weight 8)`."""
    named = [
        f"{name} {one:.3g}" if isinstance(one, float) else f"{name} {_plain(one)}"
        for name, one in parameters.items()
    ]
    return f" ({', '.join(named)})" if named else ""


def _describe_schedule(schedule: Schedule) -> str:
    if schedule.shape == "constant":
        return f"{schedule.initial:.3g}"
    return f"{schedule.initial:.3g} to {schedule.final:.3g}, {schedule.shape}"
