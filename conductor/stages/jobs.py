"""Jobs as a study needs them: the protocol, the fingerprints and the folders filled in."""

from typing import Any

from conductor.search.arm import Arm
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from storage.files.layout import Layout, RunLayout, StudyLayout
from storage.files.records import StudySettings
from workers.jobs import CostJob, KernelsJob, TeacherTestJob, TrainJob


class JobMaker:
    """Makes the jobs of one study."""

    def __init__(
        self, protocol: Protocol, layout: Layout, paths: StudyLayout, settings: StudySettings
    ) -> None:
        self._protocol = protocol
        self._paths = paths
        self._common: dict[str, Any] = {
            "protocol": protocol,
            "root": str(layout.root),
            "dataset": settings.dataset,
            "teacher": settings.teacher,
        }
        self._cache: dict[str, Any] = {"shards": settings.shards, "cache": settings.cache}

    def trial(self, arm: Arm, number: int) -> TrainJob:
        """A trial: its seed depends on its number alone, so arms meet the same seeds."""
        return TrainJob(
            recipe=arm.recipe(number),
            seed=derive_seed(self._protocol.seed, "trial", number),
            horizon=self._protocol.epochs,
            views=list(range(self._protocol.view_count)),
            folder=str(self._paths.trial(arm.name, number).folder),
            **self._common,
            **self._cache,
        )

    def confirmation(
        self,
        recipe: Recipe,
        seed: int,
        horizon: int,
        views: list[int],
        run: RunLayout,
        purpose: str,
    ) -> TrainJob:
        """A run of the selection, or one that is tested if `purpose` says what for."""
        return TrainJob(
            recipe=recipe,
            seed=seed,
            horizon=horizon,
            views=views,
            folder=str(run.folder),
            confirm=purpose,
            seal=str(self._paths.seal) if purpose else "",
            **self._common,
            **self._cache,
        )

    def teacher_test(self) -> TeacherTestJob:
        folder, seal = str(self._paths.teacher_test.folder), str(self._paths.seal)
        return TeacherTestJob(folder=folder, seal=seal, **self._common)

    def kernels(self) -> KernelsJob:
        common = {name: value for name, value in self._common.items() if name != "teacher"}
        return KernelsJob(**common)

    def cost(self) -> CostJob:
        return CostJob(**self._common)
