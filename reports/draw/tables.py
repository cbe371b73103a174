"""Tables of the page: comparison, costs, budget, recipes, provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.models.latency import Latency
from kd.recipe import SHARP_SHAPES, Recipe, Schedule
from reports.compute.findings import Findings, Standing
from reports.draw.drawing import Table
from reports.read.data import StudyData
from reports.wording import (
    MINUS,
    NONE,
    binary_size,
    capitalised,
    counted,
    decimals,
    duration,
    figure,
    listed,
    milliseconds,
    model_name,
    percent,
    points,
    scaled,
    split_words,
    whole,
)
from storage.files.records import Cost


def comparison_table(findings: Findings) -> Table:
    """Teacher and finalists: how good they are on the test split, and what they cost to run."""
    batches = _batch_sizes(findings.data)
    columns = [
        "model",
        "role",
        findings.data.measure.of("test"),
        "95 % interval",
        "seeds",
        "gap recovered",
        "NLL",
        "ECE, %",
        "agrees, %",
        "parameters",
        "MACs",
        "size",
        *(f"ms, batch {size}" for size in batches),
    ]
    rows = [_teacher_row(findings, batches)]
    rows += [_standing_row(findings.data, one, batches) for one in findings.distinct]
    tuned = [one.one.finalist.role == "tuned" for one in findings.distinct]
    strong = frozenset(place + 1 for place, is_tuned in enumerate(tuned) if is_tuned)
    return Table(columns=columns, rows=rows, words=2, strong=strong)


def _batch_sizes(data: StudyData) -> list[int]:
    models = data.costs.models.values() if data.costs else ()
    return sorted({latency.batch_size for cost in models for latency in cost.latency})


def _teacher_row(findings: Findings, batches: Sequence[int]) -> list[str]:
    data, test = findings.data, findings.data.teacher_test
    cost = data.costs.models.get("teacher") if data.costs else None
    return [
        model_name(data.protocol.teacher),
        "teacher",
        data.measure.level(data.teacher_value),
        _interval(data, findings.teacher_interval),
        "1" if test else NONE,
        NONE,
        decimals(test.get("nll")),
        points(test.get("ece")),
        NONE,
        *_cost_cells(cost, batches),
    ]


def _standing_row(data: StudyData, standing: Standing, batches: Sequence[int]) -> list[str]:
    tested, seeds = len(standing.one.values), data.seeds
    return [
        data.named(standing.one),
        standing.one.finalist.role,
        data.measure.level(standing.value),
        _interval(data, standing.interval),
        str(tested) if tested == seeds else f"{tested} of {seeds}",
        percent(standing.recovered, 0).replace("-", MINUS),
        decimals(standing.nll),
        points(standing.ece),
        points(standing.agreement),
        *_cost_cells(standing.cost, batches),
    ]


def _interval(data: StudyData, ends: tuple[float, float] | None) -> str:
    return NONE if ends is None else data.measure.between(*ends)


def _cost_cells(cost: Cost | None, batches: Sequence[int]) -> list[str]:
    if cost is None:
        return [NONE] * (3 + len(batches))
    latencies = {latency.batch_size: latency for latency in cost.latency}
    cells = [scaled(cost.parameters), scaled(cost.macs), binary_size(cost.bytes)]
    for size in batches:
        found = latencies.get(size)
        cells.append(_latency(found) if found else NONE)
    return cells


def _latency(found: Latency) -> str:
    return f"{milliseconds(found.median_ms)} / {milliseconds(found.p95_ms)}"


def comparison_note(data: StudyData) -> str:
    """Return how to read the table, and how much two measurements of one student differ."""
    text = (
        f"{capitalised(data.measure.name)}: mean over the seeds, interval over seeds and test "
        "images (the teacher's over images alone). Gap recovered: share of the gap between tuned "
        "plain and the teacher; – where that gap may be chance or is below the margin. Agrees: "
        "predicts the teacher's class."
    )
    text = text if data.seeds else ""
    if data.costs is None:
        return text
    models = data.costs.models
    where = f"{data.costs.device}, {counted(data.costs.threads, 'thread')}"
    text += f" Latency: median / 95th percentile on {where}, models interleaved."
    if "distilled" not in models or "plain" not in models:
        return text
    gaps = [
        f"{percent(abs(one.median_ms - other.median_ms) / other.median_ms, 1)} at batch "
        f"{one.batch_size}"
        for one, other in zip(models["distilled"].latency, models["plain"].latency, strict=False)
        if other.median_ms
    ]
    student = model_name(data.protocol.student)
    return (
        f"{text} {student} was measured twice: the difference is measurement noise, {listed(gaps)}."
    )


def epochs_table(findings: Findings) -> Table:
    """Epochs that each arm's search planned, trained and saved."""
    rows = [
        [
            arm.arm,
            str(arm.trials),
            str(arm.complete),
            str(arm.pruned),
            str(arm.diverged),
            str(arm.failed),
            str(arm.unfinished),
            whole(arm.planned),
            whole(arm.trained),
            whole(arm.saved),
            whole(arm.cut),
            whole(arm.lost),
        ]
        for arm in findings.ledger.arms
    ]
    columns = [
        "arm",
        "trials",
        "completed",
        "pruned",
        "diverged",
        "failed",
        "unfinished",
        "epochs planned",
        "trained",
        "saved by pruning",
        "cut by divergence",
        "lost to failures",
    ]
    return Table(columns=columns, rows=rows)


def ledger_title(findings: Findings) -> str:
    """Return a title with the share of the planned epochs that pruning saved."""
    arms = findings.ledger.arms
    planned, saved = sum(arm.planned for arm in arms), sum(arm.saved for arm in arms)
    if not planned:
        return "Nothing has been trained yet"
    if not saved:
        return f"All of {whole(planned)} planned epochs were needed: nothing was pruned"
    return (
        f"Pruning saved {whole(saved)} of {whole(planned)} planned epochs, "
        f"{percent(saved / planned, 0)}"
    )


def seconds_table(findings: Findings) -> Table:
    seconds = findings.ledger.seconds
    total = sum(seconds.values())
    rows = [
        [stage, duration(spent), percent(spent / total if total else None, 0)]
        for stage, spent in seconds.items()
    ]
    return Table(columns=["stage", "time", "share"], rows=[*rows, ["all", duration(total), ""]])


def teacher_passes(findings: Findings) -> str:
    """Return a sentence on what the teacher cache cost and saved."""
    ledger = findings.ledger
    if findings.data.settings.cache == "none":
        return "The teacher was not cached."
    if ledger.teacher_saved is None or ledger.teacher_asked is None:
        return "What the cache saves is unknown before the data set and the cache are complete."
    outcome = (
        f"saved {whole(ledger.teacher_saved)} forward passes of the teacher"
        if ledger.teacher_saved >= 0
        else f"has cost {whole(-ledger.teacher_saved)} forward passes of the teacher more than it "
        "saved so far"
    )
    size = f" Its size is {binary_size(ledger.cache_bytes)}." if ledger.cache_bytes else ""
    return (
        f"The teacher cache {outcome}: {counted(ledger.distilled_epochs, 'distilled epoch')} read "
        f"it, and filling it took {whole(ledger.teacher_asked)} passes.{size}"
    )


def seal_title(data: StudyData) -> str:
    if not data.seal:
        return "The test split is still sealed"
    return f"The test split was opened {counted(len(data.seal), 'time')}"


def seal_table(data: StudyData) -> Table | None:
    if not data.seal:
        return None
    rows = [[opening.get("time", NONE), opening.get("purpose", NONE)] for opening in data.seal]
    return Table(columns=["time", "purpose"], rows=rows, words=2)


def recipe_tables(data: StudyData) -> list[tuple[str, Table]]:
    """Return every finalist's recipe, by title."""
    return [
        (
            one.label,
            Table(columns=["parameter", "value"], rows=recipe_rows(one.finalist.recipe), words=2),
        )
        for one in data.finalists
    ]


def recipe_rows(recipe: Recipe) -> list[list[str]]:
    rows = [["student", recipe.student]] if recipe.student else []
    rows += [
        ["learning rate", figure(recipe.lr, 6)],
        ["weight decay", figure(recipe.weight_decay, 6)],
        ["label smoothing", figure(recipe.label_smoothing, 6)],
        ["soft loss", recipe.soft_kind],
    ]
    if recipe.soft_kind != "none":
        rows += _own_parameters("soft loss", recipe.soft_parameters)
        rows += [["temperature", _schedule(recipe.temperature)], ["alpha", _schedule(recipe.alpha)]]
    rows.append(["feature loss", recipe.feature_kind])
    if recipe.feature_kind != "none":
        rows += [
            *_own_parameters("feature loss", recipe.feature_parameters),
            ["feature weight", figure(recipe.feature_weight, 6)],
            ["feature taps", ", ".join(recipe.feature_taps)],
        ]
    return rows


def _own_parameters(loss: str, parameters: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{loss}: {name}", figure(one, 6) if isinstance(one, float) else str(one)]
        for name, one in parameters.items()
    ]


def _schedule(schedule: Schedule) -> str:
    if schedule.shape == "constant":
        return figure(schedule.initial, 6)
    way = f"{figure(schedule.initial, 6)} to {figure(schedule.final, 6)}, {schedule.shape}"
    if schedule.shape not in SHARP_SHAPES:
        return way
    return f"{way}, sharpness {figure(schedule.sharpness)}"


def provenance_table(data: StudyData) -> Table:
    settings, protocol = data.settings, data.protocol
    classes = data.classes
    rows = [
        ["study", data.name],
        ["protocol", protocol.hash],
        ["study seed", str(protocol.seed)],
        ["confirmation seeds", ", ".join(_confirmation_seeds(data)) or NONE],
        ["data set", f"{protocol.dataset}, {settings.dataset}"],
        *([["not read", settings.passed_over]] if settings.passed_over else []),
        ["split", split_words(data.official) if data.images else NONE],
        ["classes", f"{len(classes)}: {', '.join(classes)}" if classes else NONE],
        ["teacher", f"{protocol.teacher}, {settings.teacher}"],
        ["students", ", ".join(protocol.students)],
        ["teacher cache", f"{settings.cache}, {settings.shards}"],
        [
            "arms",
            ", ".join(
                f"{arm} ({space.source}, {space.digest[:12]})"
                for arm, space in settings.spaces.items()
            ),
        ],
        ["sampler, pruner, lag", f"{settings.sampler}, {settings.pruner}, {settings.lag}"],
        ["created", settings.created],
        *([name, text] for name, text in settings.machine.items()),
        *([name, text] for name, text in settings.versions.items()),
    ]
    return Table(columns=["what", "value"], rows=rows, words=2)


def _confirmation_seeds(data: StudyData) -> list[str]:
    seeds = {run.replicate: run.record.seed for one in data.finalists for run in one.runs}
    return [str(seeds[replicate]) for replicate in sorted(seeds)]
