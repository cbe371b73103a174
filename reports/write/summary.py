"""What other programs read: report.json, which `docs/report-schema.md` describes."""

from dataclasses import asdict
from typing import Any

from reports.caveats.openings import repeated_claims
from reports.compute.audit import Audit
from reports.compute.classes import class_name
from reports.compute.comparisons import Comparison
from reports.compute.rungs import ArmRungs
from reports.compute.tuning import Tuning
from reports.findings import Findings, Standing
from reports.intervals import detectable_range
from reports.read.data import StudyData
from reports.read.teachers import TeacherData
from reports.read.trials import ArmData
from reports.statistics import Difference
from reports.write.trials import metric_value
from storage.files.seal import Opener

SCHEMA = 1


def summarise(findings: Findings) -> dict[str, Any]:
    """Return the content of report.json: plain JSON, without NaN."""
    data = findings.data
    return {
        "schema": SCHEMA,
        "study": {
            "name": data.name,
            "arms": [arm.name for arm in data.arms],
            "created": data.settings.created,
            "seeds": data.seeds,
            "test_images": data.test_images,
            "missing": list(data.missing),
        },
        "protocol": {"hash": data.protocol.hash, **data.protocol.to_json()},
        "taps": data.settings.taps,
        "spaces": {
            "fix": list(data.settings.fix),
            "range": list(data.settings.range),
            "warm_start": data.settings.warm_start or None,
        },
        "verdict": _verdict(findings),
        "comparisons": [_comparison(data, one) for one in findings.comparisons],
        "teachers": [_teacher(data, teacher) for teacher in data.teachers],
        "arms": {arm.name: _arm(data, arm) for arm in data.arms},
        "finalists": [_finalist(data, standing) for standing in findings.standings],
        "tuning": [_tuning(data, one) for one in findings.tuning],
        "optimism": [
            {
                "finalist": one.finalist.key,
                "searched": metric_value(data, one.searched),
                "selected": metric_value(data, one.selected),
                "confirmed": metric_value(data, one.confirmed),
                "excess": metric_value(data, one.excess),
            }
            for one in findings.optimism
        ],
        "audit": [_audit(data, audit) for audit in findings.audits],
        "rungs": [_rungs(one) for one in findings.rungs],
        "ablations": [_ablation(data, one) for one in findings.ablations],
        "classes": _classes(findings),
        "ledger": asdict(findings.ledger),
        "caveats": list(findings.caveats),
        "seal": [opening.to_json() for opening in data.seal],
        "choices": [choice.to_json() for choice in data.choices],
        "other_studies": _other_studies(data),
    }


def _other_studies(data: StudyData) -> dict[str, Any]:
    """Return those that opened the same test split, or another one of the same data."""
    others = data.others
    return {
        "same_test_split": [_opener(one) for one in others.same],
        "overlapping": [_opener(one) for one in others.overlapping],
        "false_claims": repeated_claims(1 + len(others.all)) if others.all else None,
    }


def _opener(one: Opener) -> dict[str, str]:
    return {"name": one.name, "root": one.root, "first": one.first, "last": one.last}


def _teacher(data: StudyData, teacher: TeacherData) -> dict[str, Any]:
    return {
        "model": teacher.model,
        "is_reference": teacher is data.teacher,
        "validation_accuracy": teacher.info.get("accuracy"),
        "test_value": metric_value(data, teacher.value),
        "epochs": teacher.info.get("epochs"),
        "seconds": teacher.info.get("seconds"),
        "test": dict(teacher.test) or None,
        "interval": _ends(data, data.teacher_interval(teacher)),
    }


def _verdict(findings: Findings) -> dict[str, Any]:
    verdict = findings.verdict
    return {
        "kind": verdict.kind,
        "text": verdict.text,
        "reasons": list(verdict.reasons),
        "margin": findings.data.protocol.margin,
        "a": verdict.a.key if verdict.a else None,
        "b": verdict.b.key if verdict.b else None,
        "difference": _difference(verdict.difference, findings.data.measure.scale),
    }


def _difference(difference: Difference | None, scale: float = 100.0) -> dict[str, Any] | None:
    """In the metric's unit: shares in points, unlike everything else in the file."""
    if difference is None:
        return None
    low, high = sorted((scale * difference.low, scale * difference.high))
    return {
        "mean": scale * difference.mean,
        "median": scale * difference.median,
        "low": low,
        "high": high,
        "p": difference.p,
        "error_of_seeds": abs(scale) * difference.se_seed,
        "error_of_images": abs(scale) * difference.se_image,
        "detectable": abs(scale) * difference.detectable,
        "detectable_range": [abs(scale) * end for end in detectable_range(difference)],
        "seeds": difference.seeds,
        "images": difference.images,
        "per_seed": [scale * value for value in difference.per_seed],
    }


def _comparison(data: StudyData, one: Comparison) -> dict[str, Any]:
    return {
        "question": one.question,
        "a": one.a.key,
        "b": one.b.key,
        "p_holm": one.p_holm,
        "difference": _difference(one.difference, data.measure.scale),
    }


def _arm(data: StudyData, arm: ArmData) -> dict[str, Any]:
    best = arm.best
    return {
        "trials": len(arm.counted),
        "runs": len(arm.runs),
        "epochs": sum(trial.epochs for trial in arm.counted),
        "recipes": arm.recipes,
        "recipes_at_horizon": len(arm.ranking),
        "complete": arm.count("COMPLETE"),
        "pruned": arm.count("PRUNED"),
        "failed": arm.count("FAIL"),
        "infeasible": arm.count("INFEASIBLE"),
        "diverged": sum(trial.diverged for trial in arm.trials),
        "best": best
        and {
            "trial": best.number,
            "validation_value": metric_value(data, arm.best_value),
            "parameters": dict(sorted(best.parameters.items())),
            "recipe": best.record.recipe.to_json() if best.record else None,
        },
        "importances": {name: one.share for name, one in arm.importances.items()},
        "importance_spreads": {n: [one.low, one.high] for n, one in arm.importances.items()},
        "expected": arm.plane and arm.plane.to_json(),
    }


def _finalist(data: StudyData, standing: Standing) -> dict[str, Any]:
    finalist, cost = standing.finalist.finalist, standing.cost
    latency = {
        str(one.batch_size): {"median": one.median_ms, "p95": one.p95_ms}
        for one in (cost.latency if cost else ())
    }
    return {
        "name": finalist.name,
        "arm": finalist.arm,
        "role": finalist.role,
        "title": finalist.title,
        "trial": finalist.trial,
        "student": data.student(finalist.recipe),
        "recipe": finalist.recipe.to_json(),
        "test_values": [metric_value(data, score) for score in standing.finalist.values],
        "mean": metric_value(data, standing.value),
        "deviation": standing.deviation,
        "interval": _ends(data, standing.interval),
        "gap_recovered": standing.recovered,
        "gap_recovered_interval": standing.recovered_interval,
        "nll": standing.nll,
        "ece": standing.ece,
        "agreement": standing.agreement,
        "teacher_kl": standing.teacher_kl,
        "parameters": cost.parameters if cost else None,
        "macs": cost.macs if cost else None,
        "bytes": cost.bytes if cost else None,
        "latency": latency or None,
    }


def _ends(data: StudyData, interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else sorted(data.measure.sign * end for end in interval)


def _audit(data: StudyData, audit: Audit) -> dict[str, Any]:
    return {
        "arm": audit.arm,
        "auditors": len(audit.auditors),
        "cut": audit.cut,
        "wrong": audit.wrong,
        "wrong_share": audit.wrong_share,
        "regret": metric_value(data, audit.regret),
        "taus": list(audit.taus),
    }


def _rungs(one: ArmRungs) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "runs": one.runs,
        "repeats": one.repeats,
        "recipes": one.recipes,
        "recipes_at_horizon": one.whole,
        "runs_at_horizon": one.ranked,
        "auditors": one.auditors,
        "won_against_auditors": one.won,
        "trusted": one.trusted,
        "rungs": [
            {
                "epoch": rung.epoch,
                "reached": rung.reached,
                "promoted": rung.promoted,
                "paused": rung.paused,
                "promotions": list(rung.promotions),
                "tau": rung.signal.tau if rung.signal else None,
                "interval": [rung.signal.low, rung.signal.high] if rung.signal else None,
            }
            for rung in one.rungs
        ],
    }


def _ablation(data: StudyData, one: Comparison) -> dict[str, Any]:
    return {
        "name": one.a.key,
        "title": one.a.title,
        "winner": one.b.key,
        "recipe": one.a.recipe.to_json(),
        "p_holm": one.p_holm,
        "difference": _difference(one.difference, data.measure.scale),
    }


def _classes(findings: Findings) -> dict[str, Any] | None:
    """The primary comparison class by class, and the confusions that changed most."""
    compared, data = findings.classes, findings.data
    if compared is None:
        return None
    return {
        "a": compared.a.key,
        "b": compared.b.key,
        "by_class": [
            {
                "class": class_name(data, one.label),
                "images": one.images,
                "accuracy_a": one.a,
                "accuracy_b": one.b,
                "p_holm": one.p_holm,
                "difference": _difference(one.difference),
            }
            for one in compared.classes
        ],
        "confusions": [
            {
                "class": class_name(data, one.label),
                "taken_for": class_name(data, one.taken),
                "images": one.images,
                "images_a": one.a,
                "images_b": one.b,
                "difference": _difference(one.difference),
            }
            for one in compared.confusions
        ],
    }


def _tuning(data: StudyData, one: Tuning) -> dict[str, Any]:
    return {
        "arm": one.tuned.arm,
        "text": one.text,
        "tuned": one.tuned.key,
        "first": one.first.key,
        "difference": _difference(one.difference, data.measure.scale),
    }
