"""The budget: the limits on a student's size, and the sizes, measured once for a study."""

from dataclasses import dataclass

from conductor.display import Display
from kd.errors import ArtifactError, StudyError
from kd.protocol import Protocol
from storage.files.artifacts import fingerprint
from storage.files.layout import StudyLayout
from storage.files.records import StudentSizes
from workers.jobs import JobContext, StudentsJob
from workers.pools.worker_pool import WorkerPool

PARAMETERS, LATENCY = "parameters", "latency"  # names of the constraints in Optuna


@dataclass(frozen=True, slots=True)
class Budget:
    """A study's students and, where the protocol limits them, their measured sizes.

    Decisions about students depend on the protocol and this record alone, so that a study is
    repeatable although latencies are not. An empty name means the first student.
    """

    protocol: Protocol
    sizes: StudentSizes | None = None  # None without limits

    @property
    def digest(self) -> str:
        """The fingerprint of the record; empty without a record."""
        return fingerprint(self.sizes.to_json()) if self.sizes else ""

    @property
    def feasible(self) -> tuple[str, ...]:
        """The students within the budget, in the order of the protocol."""
        return tuple(name for name in self.protocol.students if not self.excess(name))

    def constraints(self, student: str) -> dict[str, float]:
        """Return measured / budget - 1 by quantity, above 0 for a violation; empty if no limit."""
        figures = self._figures(student)
        return {name: measured / limit - 1 for name, (measured, limit) in figures.items()}

    def excess(self, student: str) -> str:
        """Describe the limits that a student exceeds; empty if it is within the budget."""
        return ", ".join(
            f"{_show(name, measured)}, over the budget of {limit:,.12g}"
            for name, (measured, limit) in self._figures(student).items()
            if measured > limit
        )

    def describe(self, student: str) -> str:
        """Describe a student by its limited quantities."""
        figures = self._figures(student).items()
        over = self.excess(student)
        return over or ", ".join(_show(name, measured) for name, (measured, _) in figures)

    def _figures(self, student: str) -> dict[str, tuple[float, float]]:
        """Return (measured, limit) for every limited quantity."""
        if self.sizes is None:
            return {}
        size = self.sizes.models[student or self.protocol.student]
        figures = {
            PARAMETERS: (float(size.parameters), float(self.protocol.max_params)),
            LATENCY: (size.latency_ms or 0.0, self.protocol.max_latency_ms),
        }
        return {name: figure for name, figure in figures.items() if figure[1] > 0}


def measure_budget(
    context: JobContext, paths: StudyLayout, workers: WorkerPool, display: Display
) -> Budget:
    """Measure the students while nothing else runs, or read the record of an earlier session.

    Raises StudyError, and writes nothing, when no student is within the budget.
    """
    protocol = context.protocol
    if not protocol.has_budget:
        return Budget(protocol)
    sizes = _recorded(paths, context)
    recorded = sizes is not None
    if sizes is None:
        result = workers.run(context.job(StudentsJob))
        sizes = StudentSizes.from_json(result["sizes"])
    budget = Budget(protocol, sizes)
    _check(budget)
    if not recorded:
        sizes.write(paths.students)
    for name in protocol.students:
        how = "" if name in budget.feasible else "infeasible: "
        display.say(f"student: {name}, {how}{budget.describe(name)}{', found' if recorded else ''}")
    return budget


def _recorded(paths: StudyLayout, context: JobContext) -> StudentSizes | None:
    """Return the record of an earlier session for this protocol and data set, if there is one.

    Raises ArtifactError if it lacks a quantity that the protocol limits.
    """
    protocol = context.protocol
    if not paths.students.exists():
        return None
    sizes = StudentSizes.read(paths.students)
    if (sizes.protocol, sizes.dataset) != (protocol.hash, context.dataset):
        return None
    timed = all(size.latency_ms is not None for size in sizes.models.values())
    if set(sizes.models) != set(protocol.students) or (protocol.max_latency_ms and not timed):
        raise ArtifactError(f"{paths.students} is damaged: a student lacks a figure; restore it")
    return sizes


def _check(budget: Budget) -> None:
    if not budget.feasible:
        students = budget.protocol.students
        sizes = "; ".join(f"{name}: {budget.excess(name)}" for name in students)
        raise StudyError(
            f"no student is within the budget: {sizes}; raise --max-params or --max-latency-ms, or "
            "name a smaller --student"
        )


def _show(name: str, figure: float) -> str:
    return f"{figure:,.0f} parameters" if name == PARAMETERS else f"{figure:.4g} ms for an image"
