"""The budget on the page: epochs of each arm, time by stage, what the teacher cache saved."""

from reports.compute.budget import searched
from reports.draw.drawing import Table
from reports.findings import Findings
from reports.read.data import StudyData
from reports.wording import binary_size, capitalised, counted, duration, percent, whole


def epochs_table(findings: Findings) -> Table:
    """Epochs that each arm's search planned, trained and saved."""
    promotion = findings.data.by_promotion
    return Table.of(
        {
            "arm": arm.arm,
            "trials": str(arm.trials),
            **({"runs": str(arm.runs)} if promotion else {}),
            "completed": str(arm.complete),
            ("ended at a rung" if promotion else "pruned"): str(arm.pruned),
            "diverged": str(arm.diverged),
            "failed": str(arm.failed),
            "unfinished": str(arm.unfinished),
            ("epochs to the end" if promotion else "epochs planned"): whole(arm.planned),
            "trained": whole(arm.trained),
            ("not spent on paused runs" if promotion else "saved by pruning"): whole(arm.saved),
            "cut by divergence": whole(arm.cut),
            "lost to failures": whole(arm.lost),
        }
        for arm in findings.ledger.arms
    )


def ledger_title(findings: Findings) -> str:
    """The share of the planned epochs that pruning saved, in a sentence."""
    arms = findings.ledger.arms
    planned, saved = sum(arm.planned for arm in arms), sum(arm.saved for arm in arms)
    if not planned:
        return "Nothing has been trained yet"
    if findings.data.by_promotion:
        data = findings.data
        return capitalised("; ".join(f"{arm.name}: {searched(data, arm)}" for arm in data.arms))
    if not saved:
        return f"All of {whole(planned)} planned epochs were needed: nothing was pruned"
    return (
        f"Pruning saved {whole(saved)} of {whole(planned)} planned epochs, "
        f"{percent(saved / planned, 0)}"
    )


def ledger_caption(data: StudyData) -> str:
    horizon = counted(data.protocol.epochs, "epoch")
    if data.by_promotion:
        return (
            f"Epochs of the search by arm. A training's worth is {horizon}, the horizon. A trial "
            "trains a run from one rung to another, and its epochs and time are its own; epochs to "
            "the end are the number of runs times the horizon."
        )
    return (
        "Epochs of the search by arm; planned epochs are the number of trials times the horizon of "
        f"{data.protocol.epochs} epochs."
    )


def seconds_table(findings: Findings) -> Table:
    seconds = findings.ledger.seconds
    total = sum(seconds.values())
    rows = [
        {"stage": stage, "time": duration(spent), "share": percent(spent / (total or 1), 0)}
        for stage, spent in seconds.items()
    ]
    return Table.of([*rows, {"stage": "all", "time": duration(total), "share": ""}])


def teacher_passes(findings: Findings) -> str:
    """Return a sentence on what the teacher cache cost and saved."""
    ledger = findings.ledger
    if findings.data.settings.cache == "none":
        return "The teacher was not cached."
    if ledger.teacher_saved is None or ledger.teacher_asked is None:
        return "What the cache saves is unknown until the data set and the cache are complete."
    outcome = (
        f"saved {whole(ledger.teacher_saved)} forward passes of the teacher"
        if ledger.teacher_saved >= 0
        else f"has cost {whole(-ledger.teacher_saved)} more forward passes of the teacher than it "
        "has saved so far"
    )
    size = f" Its size is {binary_size(ledger.cache_bytes)}." if ledger.cache_bytes else ""
    return (
        f"The teacher cache {outcome}: {counted(ledger.distilled_epochs, 'distilled epoch')} read "
        f"it, and filling it took {whole(ledger.teacher_asked)} passes.{size}"
    )
