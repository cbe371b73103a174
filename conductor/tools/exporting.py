"""The export of a confirmed student, checked before it is renamed into place."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conductor.display import Display
from conductor.stages.provenance import read_context
from kd.errors import ArtifactError, StudyError
from kd.registry import check_name
from reports.findings import Findings
from reports.read.data import ConfirmationRun, FinalistData, StudyData
from reports.wording import counted
from reports.write.card import Exported, model_card
from storage.files.artifacts import finish, read_json
from storage.files.layout import ExportLayout, StudyLayout
from workers.jobs import ExportJob
from workers.pools.worker_pool import WorkerPool

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, slots=True)
class Choice:
    """The student to export: a finalist, and one of its confirmation runs."""

    finalist: FinalistData
    run: ConfirmationRun


def check_format(form: str) -> None:
    """Raise StudyError if a package that the format needs is not installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if form == "onnx" and missing:
        raise StudyError(
            f"--format onnx needs {', '.join(missing)}: pip install --editable '.[export]'"
        )


def choose(data: StudyData, name: str | None, command: str) -> Choice:
    """Return the finalist `name`, by default the one that the verdict is about, and its run.

    The run is the one with the (lower) median of the validation metric: the best on the test split
    would be a selection by it. Raises ProtocolError for an unknown name, and
    StudyError, naming `command`, unless all its confirmation runs have ended.
    """
    finalist = _finalist(data, name, command)
    if len(finalist.runs) < data.seeds:
        raise StudyError(
            f"{len(finalist.runs)} of {data.seeds} confirmation runs of {finalist.key} have ended; "
            f"run: {command}"
        )
    tested = sorted(
        finalist.tested, key=lambda run: (run.record.objective(data.measure.worst), run.replicate)
    )
    if not tested:
        raise StudyError(f"every confirmation run of {finalist.key} diverged: there is no student")
    return Choice(finalist, tested[(len(tested) - 1) // 2])


def _finalist(data: StudyData, name: str | None, command: str) -> FinalistData:
    if not data.contenders:
        raise StudyError(f"study {data.name} has not been confirmed; run: {command}")
    known = dict.fromkeys(finalist.key for finalist in data.contenders)
    if name:
        check_name(f"finalist of study {data.name}", name, known)
        named = [finalist for finalist in data.contenders if finalist.key == name]
        return next((f for f in named if f.finalist.role == "tuned"), named[0])
    tuned = data.tuned(data.primary_arm)
    if tuned is None:
        raise StudyError(
            f"study {data.name} has no tuned recipe that distils; name one with --finalist: "
            + ", ".join(known)
        )
    return tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The export of one student to `target`, also as ONNX if `onnx`."""

    paths: StudyLayout
    findings: Findings
    choice: Choice
    target: Path
    onnx: bool

    def check_target(self) -> None:
        """Raise StudyError unless the target is missing or an empty folder."""
        target = self.target
        if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise StudyError(f"{target} exists; delete it, or name another folder with --out")

    def run(self, workers: WorkerPool, display: Display) -> None:
        """Write the student, all or nothing, and print the comparisons.

        Raises ArtifactError if the files differ from the confirmed student.
        """
        self.check_target()
        with building(self.target) as folder:
            result = workers.run(self._job(folder))
            exported = Exported(
                finalist=self.choice.finalist,
                run=self.choice.run,
                config=read_json(ExportLayout(folder).config),
                own=sorted(
                    path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.py")
                ),
                images=result["images"],
                onnx_differences=result["onnx_differences"],
            )
            card = model_card(self.findings, exported)
            ExportLayout(folder).card.write_text(card, encoding="utf-8")
            finish(folder, "export", self._identity(), self._versions())
        self._say(exported, display)

    def _job(self, folder: Path) -> ExportJob:
        run = self.paths.confirmation(self.choice.finalist.key, self.choice.run.replicate)
        last = self.choice.run.record.last
        assert last is not None  # of a run that was tested
        return read_context(self.paths).job(
            ExportJob,
            weights=str(run.weights),
            folder=str(folder),
            accuracy=last.accuracy,
            onnx=self.onnx,
            student=self.choice.finalist.finalist.recipe.student,
        )

    def _identity(self) -> dict[str, Any]:
        data, choice = self.findings.data, self.choice
        return {
            "study": data.name,
            "protocol": data.protocol.hash,
            "dataset": data.settings.dataset,
            "teachers": list(data.settings.teachers),
            "shards": list(data.settings.shards),
            "finalist": choice.finalist.key,
            "recipe": choice.finalist.finalist.recipe.to_json(),
            "replicate": choice.run.replicate,
            "seed": choice.run.record.seed,
            "onnx": self.onnx,
        }

    def _versions(self) -> dict[str, Any]:
        """The versions of the libraries that exported; the card has those that trained."""
        names = ("torch", "safetensors", *(ONNX_PACKAGES if self.onnx else ()))
        return {"versions": {name: version(name) for name in names}}

    def _say(self, exported: Exported, display: Display) -> None:
        data, run = self.findings.data, exported.run
        measure = data.measure
        validated = measure.value(run.record.objective(measure.worst), 1)
        display.say(
            f"{exported.finalist.key}, seed {run.replicate + 1} of {data.seeds}: the median of "
            f"validation {measure.name}, {validated}; {measure.value(run.value, 1)} on the test "
            "split"
        )
        count = counted(exported.images, f"validation {data.example}")
        display.say(f"safetensors: {count}, equal bit for bit")
        for batch, difference in exported.onnx_differences.items():
            display.say(f"onnx: logits of a batch of {batch} differ by at most {difference:.2g}")
        display.say(f"export: {self.target}")


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`; rename it to `target` if the block succeeds.

    Otherwise it is removed, with parents that were made for it. Raises ArtifactError if it cannot
    be written.
    """
    whole = target.absolute()  # the present folder has no name of its own
    folder = whole.with_name(f".{whole.name}.{secrets.token_hex(6)}.tmp")
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.replace(whole)
    except OSError as error:
        raise ArtifactError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # it holds the export, or what others have put there
                parent.rmdir()
