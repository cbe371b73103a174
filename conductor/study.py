"""The whole way of a study: prepare, search, confirm, report."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from optuna.storages import BaseStorage

from conductor.display import Display
from conductor.request import Request, announced
from conductor.search.arm import Arm
from conductor.search.budget import Budget, measure_budget
from conductor.search.loop import Search
from conductor.search.methods import SearchMethod
from conductor.search.publish import Publisher
from conductor.stages.confirm import Confirmation
from conductor.stages.jobs import JobMaker
from conductor.stages.own_models import keep_models
from conductor.stages.preparing import Preparation
from conductor.stages.provenance import (
    begin_settings,
    kept_settings,
    kernels_change,
    remember_command,
)
from kd.errors import RetortError, StudyError
from reports.wording import measure
from search_spaces.context import StudyContext
from search_spaces.space import Space, load_space, with_feasible
from storage.files.layout import Layout, StudyLayout, command_line
from storage.files.ownership import check_inside, own_file, remove_traces
from storage.files.records import Costs, Finalists, StudySettings
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import open_study, study_name
from storage.studies.supervision import own_session
from storage.studies.urls import storage_file
from workers.pools.worker_pool import WorkerPool, make_pool

GRACE_SECONDS = 10  # for the epochs at hand when the study is interrupted


class Study:
    """One study under one root. Every stage finds what an earlier session has finished."""

    def __init__(self, request: Request, display: Display) -> None:
        self._request = request
        self._display = display
        self._layout = Layout(request.root)
        self._paths = self._layout.study(request.name)
        protocol = request.protocol
        context = StudyContext(
            taps=protocol.taps, optimizer=protocol.optimizer, students=protocol.students
        )
        self._spaces = [load_space(space, context) for space in request.spaces]
        self._url = request.storage or self._layout.studies_url

    def run(self) -> None:
        """Run what is missing of search and confirmation."""
        self._work(search=True)

    def confirm(self) -> None:
        """Run what is missing of the confirmation of trials that are there.

        Raises StudyError when the study has not been searched yet.
        """
        if not self._paths.settings.exists():
            raise StudyError(
                f"there is no study {self._request.name} to confirm under {self._layout.root}; "
                f"run: {command_line(self._layout.root, '', '--trials', 'N')}"
            )
        self._work(search=False)

    def _work(self, *, search: bool) -> None:
        kept_settings(self._paths, self._request, self._url)  # refuses before anything is started
        root = self._layout.root
        is_new = not root.exists()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--root {root} cannot be made: {error.strerror}") from None
        check_inside(root, self._paths.folder)
        with own_file(storage_file(self._url), self._paths.name):
            try:
                self._supervise(search=search)
            except RetortError:
                if is_new:
                    self._leave_nothing(root)
                raise

    def _leave_nothing(self, root: Path) -> None:
        """Remove what a study that could not begin has left under its new root."""
        if self._is_alone() and not self._paths.settings.exists():
            remove_traces(root)
        with suppress(OSError):  # it holds something
            root.rmdir()

    def _is_alone(self) -> bool:
        """Whether no other study can have begun under the root; for a server, nobody knows."""
        locks = list(self._layout.root.glob("studies.db.*.lock"))
        return storage_file(self._url) is not None and len(locks) <= 1

    def _supervise(self, *, search: bool) -> None:
        pool = make_pool(self._request.workers, self._request.cluster)
        workers = WorkerPool(pool)
        try:
            pool.start()
            # some 1,100 modules that are needed later: imported while the fork server imports torch
            import optuna_dashboard  # noqa: F401

            import reports.write.report  # noqa: F401

            with self._display.showing():
                self._run_stages(workers, search=search)
        except KeyboardInterrupt:
            self._display.say("stopping after the running epochs; interrupt again to stop now")
            workers.drain(GRACE_SECONDS)
            raise
        finally:
            pool.close()

    def _run_stages(self, workers: WorkerPool, *, search: bool) -> None:
        """Open the storage first: one that does not answer is no reason to train a teacher."""
        storage = open_storage(self._url, self._display.say)
        try:
            with own_session(storage, self._paths.name) as check:
                workers.check = check
                self._run_study(workers, storage, search=search)
        finally:
            close_storage(storage)

    def _run_study(self, workers: WorkerPool, storage: BaseStorage, *, search: bool) -> None:
        clock = _Clock(self._paths)
        preparation = Preparation(self._request, self._layout, workers, self._display)
        kept = kept_settings(self._paths, self._request, self._url)
        keep_models(self._layout, self._request.models)
        data = preparation.data()
        data = replace(data, kernels=preparation.kernels(data.dataset))
        if kept and (change := kernels_change(kept, data.kernels)):
            self._display.say(change)
        preparation.models(data.dataset)
        budget = self._measure(data.dataset, workers)
        for line in announced(self._request) if search else ():
            self._display.say(line)
        begun = begin_settings(self._paths, self._request, self._spaces, data, kept)
        prepared = preparation.run(data, _distils(self._spaces), begun.cache)
        settings = begin_settings(self._paths, self._request, self._spaces, prepared, begun)
        arms = [self._open_arm(space, storage, settings, budget) for space in self._spaces]
        jobs = JobMaker(self._request.protocol, self._layout, self._paths, settings)
        clock.lap("preparation")
        if search:
            publisher = Publisher(self._request.protocol, self._layout.artifacts)
            for arm in arms:
                publisher.study(arm)
            self._search(arms, workers, jobs, publisher)
            clock.lap("search")
        chosen = self._confirm(arms, workers, jobs)
        remember_command(self._paths, max(arm.decisions.counted for arm in arms), chosen)
        clock.lap("confirmation")
        self._compare(workers, jobs)
        clock.lap("comparison")

    def _measure(self, dataset: str, workers: WorkerPool) -> Budget:
        """Measure the students before anything is trained, and give the spaces those there are."""
        protocol = self._request.protocol
        budget = measure_budget(
            protocol, self._layout, self._paths, dataset, workers, self._display
        )
        self._spaces = [with_feasible(space, budget.feasible) for space in self._spaces]
        return budget

    def _open_arm(
        self, space: Space, storage: BaseStorage, settings: StudySettings, budget: Budget
    ) -> Arm:
        protocol = self._request.protocol
        method = SearchMethod(
            sampler=settings.sampler,
            pruner=settings.pruner,
            lag=settings.lag,
            seed=protocol.seed,
            horizon=protocol.epochs,
        )
        attributes = {
            "protocol": protocol.hash,
            "space": space.digest,
            "sampler": settings.sampler,
            "pruner": settings.pruner,
            "lag": settings.lag,
            "dataset": settings.dataset,
            "shards": settings.shards,
            **({"students": budget.digest} if budget.digest else {}),
        }
        name = study_name(self._request.name, space.name)
        study = open_study(storage, name, attributes, measure(protocol.metric).maximised)
        return Arm(space, study, method, budget=budget if len(protocol.students) > 1 else None)

    def _search(
        self, arms: list[Arm], workers: WorkerPool, jobs: JobMaker, publisher: Publisher
    ) -> None:
        metric, paths = self._request.protocol.metric, self._paths
        search = Search(arms, workers, paths, self._display, jobs.trial, publisher.trial, metric)
        search.run(self._request.trials)

    def _confirm(self, arms: list[Arm], workers: WorkerPool, jobs: JobMaker) -> Finalists:
        protocol = self._request.protocol
        confirmation = Confirmation(
            arms,
            workers,
            self._paths,
            self._display,
            jobs.confirmation,
            protocol.metric,
        )
        return confirmation.run(
            protocol.seed,
            self._request.seeds,
            protocol.confirm_horizon,
            protocol.view_count,
            ablate=self._request.ablate,
        )

    def _compare(self, workers: WorkerPool, jobs: JobMaker) -> None:
        """Test the teacher, and measure what the models cost, with nothing else running."""
        tested = self._paths.teacher_test
        if not (tested.result.exists() and tested.predictions.exists()):
            workers.run(jobs.teacher_test(), lambda event: None)
        if not self._paths.costs.exists():
            self._display.say("measuring latency …")
            event = workers.run(jobs.cost(), lambda event: None)
            Costs.from_json(event["costs"]).write(self._paths.costs)


class _Clock:
    """Adds the wall-clock seconds of each stage to the study's settings, over all sessions."""

    def __init__(self, paths: StudyLayout) -> None:
        self._paths = paths
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        settings = StudySettings.read(self._paths.settings)
        settings.seconds[stage] = round(settings.seconds.get(stage, 0.0) + now - self._last, 3)
        settings.write(self._paths.settings)
        self._last = now


def _distils(spaces: list[Space]) -> bool:
    return any(space.name != "plain" for space in spaces)
