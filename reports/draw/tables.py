"""Tables of the page: comparison, costs, budget, recipes, provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.models.latency import Latency
from kd.recipe import SHARP_SHAPES, Recipe, Schedule
from reports.draw.drawing import Table
from reports.findings import Findings, Standing
from reports.read.data import StudyData
from reports.read.teachers import TeacherData
from reports.wording import (
    MINUS,
    NONE,
    binary_size,
    capitalised,
    counted,
    decimals,
    figure,
    listed,
    milliseconds,
    model_name,
    percent,
    points,
    scaled,
    split_words,
    tap_words,
)
from storage.files.records import Cost, StudySettings


def comparison_table(findings: Findings) -> Table:
    """Teachers and finalists: their results on the test split, and the costs of using them."""
    data = findings.data
    models = data.costs.models if data.costs else {}
    batches = sorted({one.batch_size for cost in models.values() for one in cost.latency})
    rows = [
        *(_teacher_row(data, one, models.get(one.role), batches) for one in data.teachers),
        *(_standing_row(data, one, batches) for one in findings.distinct),
    ]
    tuned = [place for place, row in enumerate(rows) if row["role"] == "tuned"]
    return Table.of(rows, words=2, strong=tuned)


def _teacher_row(
    data: StudyData, teacher: TeacherData, cost: Cost | None, batches: Sequence[int]
) -> dict[str, str]:
    return {
        "model": model_name(teacher.model),
        "role": "teacher",
        data.measure.of("test"): data.measure.level(teacher.value),
        "95 % interval": _interval(data, data.teacher_interval(teacher)),
        "seeds": "1" if teacher.test else NONE,
        "gap recovered": NONE,
        "NLL": decimals(teacher.test.get("nll")),
        "ECE, %": points(teacher.test.get("ece")),
        "agreement, %": NONE,
        **_cost_cells(cost, batches),
    }


def _standing_row(data: StudyData, standing: Standing, batches: Sequence[int]) -> dict[str, str]:
    finalist, seeds = standing.finalist, data.seeds
    tested = len(finalist.values)
    return {
        "model": data.named(finalist),
        "role": finalist.role,
        data.measure.of("test"): data.measure.level(standing.value),
        "95 % interval": _interval(data, standing.interval),
        "seeds": str(tested) if tested == seeds else f"{tested} of {seeds}",
        "gap recovered": _recovered(standing),
        "NLL": decimals(standing.nll),
        "ECE, %": points(standing.ece),
        "agreement, %": points(standing.agreement),
        **_cost_cells(standing.cost, batches),
    }


def _recovered(standing: Standing) -> str:
    """52 %, −7 to 78 %: a share with its interval."""
    share, ends = standing.recovered, standing.recovered_interval
    if share is None:
        return NONE
    if ends is None:
        return f"{percent(share, 0)}, no bounded interval".replace("-", MINUS)
    between = f"{points(ends[0], digits=0)} to {percent(ends[1], 0)}"
    return f"{percent(share, 0)}, {between}".replace("-", MINUS)


def _interval(data: StudyData, ends: tuple[float, float] | None) -> str:
    return NONE if ends is None else data.measure.interval(*ends, sign=False)


def _cost_cells(cost: Cost | None, batches: Sequence[int]) -> dict[str, str]:
    latencies = {one.batch_size: one for one in cost.latency} if cost else {}
    return {
        "parameters": scaled(cost.parameters) if cost else NONE,
        "MACs": scaled(cost.macs) if cost else NONE,
        "size": binary_size(cost.bytes) if cost else NONE,
        **{f"ms, batch {size}": _latency(latencies.get(size)) for size in batches},
    }


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return NONE
    return f"{milliseconds(latency.median_ms)} / {milliseconds(latency.p95_ms)}"


def comparison_note(data: StudyData) -> str:
    """Explain the columns, and how much two measurements of the same student differ."""
    text = (
        f"{capitalised(data.measure.name)}: mean over the seeds, with an interval over seeds and "
        f"test {data.example}s (the teacher's is over {data.example}s alone). Gap recovered: the "
        "gain over tuned plain as a share of the teacher's gain, with its 95 % interval; – where "
        "the teacher's gain may be chance or is below the margin. Agreement: predictions that are "
        "the teacher's."
    )
    if len(data.teachers) > 1:
        text += (
            f" Of {len(data.teachers)} teachers, the teacher is here "
            f"{model_name(data.teacher.model)}, the best on the validation split, but for the "
            "agreement: that is with the teachers by the recipe's shares, equal ones for plain."
        )
    if not data.seeds:
        text = ""
    if data.costs is None:
        return text
    models = data.costs.models
    text += (
        f" Latency: median / 95th percentile on {data.costs.device}, "
        f"{counted(data.costs.threads, 'thread')}, all models measured in turn."
    )
    if "distilled" not in models or "plain" not in models:
        return text
    gaps = [
        f"{percent(abs(one.median_ms - other.median_ms) / other.median_ms, 1)} at batch size "
        f"{one.batch_size}"
        for one, other in zip(models["distilled"].latency, models["plain"].latency, strict=False)
        if other.median_ms
    ]
    return (
        f"{text} {model_name(data.protocol.student)} was measured twice: the difference, "
        f"{listed(gaps)}, is measurement noise."
    )


def seal_title(data: StudyData) -> str:
    if not data.seal:
        return "The test split is still sealed"
    return f"The test split was opened {counted(len(data.seal), 'time')}"


def seal_table(data: StudyData) -> Table:
    return Table.of((one.to_json() for one in data.seal), words=2)


def recipe_table(recipe: Recipe) -> Table:
    return Table(columns=["parameter", "value"], rows=recipe_rows(recipe), words=2)


def recipe_rows(recipe: Recipe) -> list[list[str]]:
    rows = [["student", recipe.student]] if recipe.student else []
    if recipe.teacher_shares:
        rows += [["teachers' shares", ", ".join(figure(one) for one in recipe.teacher_shares)]]
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
    course = f"{figure(schedule.initial, 6)} to {figure(schedule.final, 6)}, {schedule.shape}"
    if schedule.shape not in SHARP_SHAPES:
        return course
    return f"{course}, sharpness {figure(schedule.sharpness)}"


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
        ["split seed", str(protocol.split_seed)],
        ["classes", f"{len(classes)}: {', '.join(classes)}" if classes else NONE],
        *_teachers(data),
        ["students", ", ".join(protocol.students)],
        *([] if settings.taps is None else [["taps", tap_words(settings.taps)]]),
        ["teacher cache", ", ".join((settings.cache, *settings.shards))],
        [
            "arms",
            ", ".join(
                f"{arm} ({space.source}, {space.digest[:12]})"
                for arm, space in settings.spaces.items()
            ),
        ],
        (
            ["search, lag", f"by promotion, {settings.lag}"]
            if data.by_promotion
            else ["sampler, pruner, lag", f"{settings.sampler}, {settings.pruner}, {settings.lag}"]
        ),
        *([name, text] for name, text in _changes(settings).items() if text),
        ["created", settings.created],
        *([name, text] for name, text in settings.machine.items()),
        *([name, text] for name, text in settings.versions.items()),
    ]
    return Table(columns=["what", "value"], rows=rows, words=2)


def _teachers(data: StudyData) -> list[list[str]]:
    trained = data.settings.teachers or ("",) * len(data.teachers)
    return [
        [teacher.role, ", ".join(filter(None, (teacher.model, fingerprint)))]
        for teacher, fingerprint in zip(data.teachers, trained, strict=True)
    ]


def _changes(settings: StudySettings) -> dict[str, str]:
    """Return what changed the search spaces, empty where nothing did."""
    warm = settings.warm.trials if settings.warm else {}
    trials = ", ".join(f"trial {trial.number} of {arm}" for arm, trial in warm.items())
    return {
        "fixed parameters": ", ".join(settings.fix),
        "other ranges": ", ".join(settings.range),
        "warm start": f"{settings.warm_start}: {trials}" if warm else "",
    }


def _confirmation_seeds(data: StudyData) -> list[str]:
    seeds = {run.replicate: run.record.seed for one in data.finalists for run in one.runs}
    return [str(seeds[replicate]) for replicate in sorted(seeds)]
