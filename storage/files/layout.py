"""Every path under the root folder, from one object."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from kd.errors import StudyError

RESERVED = (
    "cache",
    "artifacts",
    "logs",
    "studies.db…",
    "comparison.html",
)  # names of other files in the root
DEFAULT_ROOT = "runs"  # root of the command line without --root


def lock_of(path: Path) -> Path:
    """Return the lock file of an artifact at `path`."""
    return path.with_suffix(".lock")


def kernels_record(fingerprint: str) -> Path:
    """Return the path of the record on this kind of processor, in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "retort" / "kernels" / f"{fingerprint}.json"


def home_path(path: str) -> str:
    """Return a path with a leading `~` expanded to the home folder, as in a shell."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path takes ./~ for ~, and fails for ~nobody


def whole_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, as a study records it so that it is valid in any folder.

    `~` is the home folder. Links among the parent folders are resolved; a link in the last part is
    not, since its suffix is the kind of the file.
    """
    expanded = Path(home_path(str(path)))
    if expanded.name in ("", ".."):
        return Path(os.path.realpath(expanded))
    return Path(os.path.realpath(expanded.parent), expanded.name)


def command_line(root: Path | str, verb: str = "", *flags: str) -> str:
    """Return the POSIX shell command that runs `verb` under this root."""
    command = [verb] if verb else []
    place = [] if str(root) == DEFAULT_ROOT else ["--root", str(root)]
    return shlex.join(["python", "study.py", *command, *place, *flags])


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file; `%` and `?` in its path are escaped."""
    if not {"%", "?"} & {*str(path)}:
        return f"sqlite:///{path}"
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder that `--root` names."""

    root: Path

    @property
    def database(self) -> Path:
        """The file of the Optuna studies, unless `--storage` is given."""
        return self.root / "studies.db"

    @property
    def studies_url(self) -> str:
        """The default storage of the Optuna studies."""
        return sqlite_url(self.database.absolute())

    @property
    def studies(self) -> list[str]:
        """The names of all studies that have begun, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/study.json"))

    @property
    def comparison(self) -> Path:
        """The report on several studies, side by side."""
        return self.root / "comparison.html"

    @property
    def artifacts(self) -> Path:
        """Optuna's artifact store: what the dashboard shows and downloads."""
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def downloads(self) -> Path:
        """The folder of downloaded data sets, unless `--dataset` names another."""
        return self.cache / "downloads"

    def listing(self, digest: str) -> Path:
        """The record of the data set that belongs to a listing of files."""
        return self.cache / "data" / "listings" / f"{digest}.json"

    def dataset(self, fingerprint: str) -> Path:
        return self.cache / "data" / fingerprint

    def teacher(self, fingerprint: str) -> Path:
        return self.cache / "teachers" / fingerprint

    def teacher_weights(self, fingerprint: str) -> Path:
        return self.teacher(fingerprint) / "weights.safetensors"

    def teacher_training(self, fingerprint: str) -> "RunLayout":
        """The run that trains a teacher; removed at its end."""
        return RunLayout(self.teacher(fingerprint).with_suffix(".training"))

    def shards(self, fingerprint: str) -> Path:
        return self.cache / "shards" / fingerprint

    @property
    def own(self) -> Path:
        """Copies of files of the user's own, named by their content; see `kd.own_files`."""
        return self.cache / "own"

    def log(self, name: str) -> Path:
        """The file of a traceback, to which an error message refers."""
        return self.root / "logs" / f"{name}.log"

    def study(self, name: str) -> "StudyLayout":
        """Return the layout of a study. Raises StudyError for an invalid or reserved name."""
        reserved = name in RESERVED or name.startswith("studies.db")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or reserved:
            raise StudyError(
                f"a study's name must be 1-64 letters, digits, '.', '_' or '-', begin with a "
                f"letter or digit and be none of {', '.join(RESERVED)}; got {name!r}"
            )
        return StudyLayout(self.root / name, name)


@dataclass(frozen=True, slots=True)
class StudyLayout:
    """The folder of one study."""

    folder: Path
    name: str

    def command(self, verb: str, *flags: str) -> str:
        """Return the POSIX shell command that runs `verb` on this study."""
        return command_line(self.folder.parent, verb, "--name", self.name, *flags)

    @property
    def protocol(self) -> Path:
        return self.folder / "protocol.json"

    @property
    def settings(self) -> Path:
        """Arms, search method and provenance of the study."""
        return self.folder / "study.json"

    @property
    def students(self) -> Path:
        """The measured sizes of the students, in a study with limits on them."""
        return self.folder / "students.json"

    @property
    def seal(self) -> Path:
        """Every opening of the test split."""
        return self.folder / "seal.json"

    @property
    def costs(self) -> Path:
        """Parameters, MACs, bytes and latency of teacher and students."""
        return self.folder / "costs.json"

    def teacher_test(self, role: str = "teacher") -> "RunLayout":
        """A teacher's test: its result and its logits of the test split.

        `role` is one of `Protocol.teacher_roles`.
        """
        return RunLayout(self.folder / "confirm" / role.replace(" ", "-"))

    @property
    def finalists(self) -> Path:
        return self.folder / "confirm" / "finalists.json"

    @property
    def report_html(self) -> Path:
        return self.folder / "report.html"

    @property
    def report_json(self) -> Path:
        return self.folder / "report.json"

    @property
    def search(self) -> Path:
        """What the search by promotion has learnt: a `SearchRecord`."""
        return self.folder / "search.json"

    @property
    def trials_csv(self) -> Path:
        return self.folder / "trials.csv"

    def trial(self, arm: str, number: int) -> "RunLayout":
        """One trial of the search."""
        return RunLayout(self.folder / "trials" / arm / f"{number:05d}")

    def trial_results(self, arm: str) -> list[Path]:
        """The results of an arm's trials that have ended."""
        return _results(self.trial(arm, 0).folder.parent)

    def selection_results(self, arm: str) -> list[Path]:
        """The results of an arm's selection runs that have ended."""
        return _results(self.selection(arm, 0, 0).folder.parent)

    def selection(self, arm: str, number: int, replicate: int) -> "RunLayout":
        """One run, on a fresh seed, of a trial that may become a finalist."""
        return RunLayout(self.folder / "confirm" / "selection" / arm / f"{number:05d}-{replicate}")

    def confirmation(self, finalist: str, replicate: int) -> "RunLayout":
        """One confirmation run of a finalist."""
        return RunLayout(self.folder / "confirm" / finalist / f"{replicate:02d}")

    def export(self, finalist: str, replicate: int) -> Path:
        """The folder to which a confirmed student is exported; see `ExportLayout`."""
        return self.folder / "export" / f"{finalist}-{replicate:02d}"


def _results(folder: Path) -> list[Path]:
    runs = sorted(folder.iterdir()) if folder.is_dir() else []
    return [run.result for run in map(RunLayout, runs) if run.result.is_file()]


def dataset_part(folder: Path, part: str) -> Path:
    """Return the file of one part of the data set in `folder`: train, validation or test."""
    return folder / f"{part}.safetensors"


def openings_record(folder: Path) -> Path:
    """Return the record of who opened test splits of the cache that has this data set."""
    return folder.with_name("openings.json")


def view_folder(shards: Path, k: int) -> Path:
    """Return the folder of the shard of view `k`."""
    return shards / f"view-{k:05d}"


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The folder of one training run: a trial, a selection run or a confirmation run."""

    folder: Path

    @property
    def result(self) -> Path:
        """Written last: recipe, outcome and every epoch."""
        return self.folder / "result.json"

    @property
    def checkpoint(self) -> Path:
        """The complete state after the last full epoch; removed at the end of the run."""
        return self.folder / "checkpoint.safetensors"

    @property
    def weights(self) -> Path:
        """The trained student, kept for confirmation runs."""
        return self.folder / "student.safetensors"

    @property
    def predictions(self) -> Path:
        """Logits of the test split, kept for confirmation runs."""
        return self.folder / "test.safetensors"

    @property
    def lock(self) -> Path:
        return self.folder / "worker.lock"


@dataclass(frozen=True, slots=True)
class ExportLayout:
    """The folder of one exported student."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "student.safetensors"

    @property
    def source(self) -> Path:
        """The student in plain PyTorch."""
        return self.folder / "student.py"

    @property
    def config(self) -> Path:
        """The settings to build the student and to prepare its inputs."""
        return self.folder / "config.json"

    @property
    def onnx(self) -> Path:
        return self.folder / "student.onnx"

    @property
    def card(self) -> Path:
        return self.folder / "README.md"
