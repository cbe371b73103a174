"""The whole study, stage by stage: prepare, search, confirm, measure."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from optuna.storages import BaseStorage

from conductor.display import Display
from conductor.request import METHOD, Request, announced, searched_by
from conductor.search.arm import Arm
from conductor.search.budget import Budget, measure_budget
from conductor.search.loop import Search
from conductor.search.methods import SearchMethod
from conductor.search.publish import Publisher
from conductor.search.samplers import OWN_SAMPLER
from conductor.search.trying import try_sampler
from conductor.stages.changing import changed_lines, check_warm, make_changes
from conductor.stages.confirm import Confirmation
from conductor.stages.moving import find_data
from conductor.stages.own_files import keep_own
from conductor.stages.preparing import Preparation
from conductor.stages.provenance import (
    begin_settings,
    check_taps,
    kept_settings,
    kernels_change,
    remember_command,
    remember_timeout,
    versions_change,
)
from kd.errors import RetortError, StudyError
from kd.metrics import load_metric
from kd.names import mixes
from kd.protocol import Protocol
from reports.wording import measure
from search_spaces.changes import check_known
from search_spaces.context import StudyContext
from search_spaces.space import Space, for_study, load_space, with_feasible
from storage.files.layout import Layout, StudyLayout, command_line
from storage.files.ownership import check_inside, remove_traces, study_lock
from storage.files.records import Costs, SearchRecord, StudySettings
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import open_study, study_name
from storage.studies.supervision import supervisor_session
from storage.studies.urls import storage_file
from workers.jobs import CostJob, JobContext, TeacherTestJob
from workers.pools.worker_pool import WorkerPool

GRACE_SECONDS = 10  # for the running epochs when the study is interrupted


class Study:
    """One study under one root. Every stage continues from the files of earlier sessions."""

    def __init__(self, request: Request, display: Display) -> None:
        self._request = request
        self._display = display
        self._layout = Layout(request.root)
        self._paths = self._layout.study(request.name)
        protocol = request.protocol
        self._context = StudyContext(
            taps=protocol.tap_names,
            optimizer=protocol.optimizer,
            teachers=protocol.teacher_labels,
            students=protocol.students,
            mixing=mixes(protocol.augment),
            pretrained=protocol.student_weights != "none",
            loss=protocol.loss,
        )
        changes = make_changes(request.fix, request.range, request.warm_start, request.warm)
        self._spaces = [load_space(space, self._context, changes) for space in request.spaces]
        names = (name for space in self._spaces for name in space.parameters)
        check_known(changes, names, self._context)
        check_warm(self._spaces, request.warm_start, request.warm)
        self._url = request.url

    def run(self) -> None:
        """Run the missing parts of search and confirmation."""
        self._work(search=True)

    def confirm(self) -> None:
        """Run the missing parts of the confirmation, without new trials.

        Raises StudyError for a study that has not been searched yet.
        """
        if not self._paths.settings.exists():
            raise StudyError(
                f"there is no study {self._request.name} to confirm under {self._layout.root}; "
                f"run: {command_line(self._layout.root, '', '--trials', 'N')}"
            )
        self._work(search=False)

    def _work(self, *, search: bool) -> None:
        kept_settings(self._paths, self._request, self._url)  # raises before anything is started
        root = self._layout.root
        is_new = not root.exists()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--root {root} cannot be created: {error.strerror}") from None
        check_inside(root, self._paths.folder)
        with study_lock(storage_file(self._url), self._paths.name):
            try:
                self._supervise(search=search)
            except RetortError:
                if is_new:
                    self._clean_up(root)
                raise

    def _clean_up(self, root: Path) -> None:
        """Remove the files that a study left in its new root when it could not begin."""
        if self._is_alone() and not self._paths.settings.exists():
            remove_traces(root)
        with suppress(OSError):  # it is not empty
            root.rmdir()

    def _is_alone(self) -> bool:
        """Whether no other study has begun under the root; False if unknown, for a server."""
        locks = list(self._layout.root.glob("studies.db.*.lock"))
        return storage_file(self._url) is not None and len(locks) <= 1

    def _supervise(self, *, search: bool) -> None:
        pool = self._request.pool(self._layout.root, self._request.protocol.threads)
        workers = WorkerPool(pool)
        try:
            pool.start()
            # 1,100 modules that are needed later, imported while the fork server imports torch
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
        """Open the storage, which may fail, before a teacher is trained; then run the stages."""
        storage = open_storage(self._url, self._display.say)
        try:
            with supervisor_session(storage, self._paths.name) as check:
                workers.check = check
                self._run_study(workers, storage, search=search)
        finally:
            close_storage(storage)

    def _run_study(self, workers: WorkerPool, storage: BaseStorage, *, search: bool) -> None:
        clock = _Clock(self._paths)
        preparation = Preparation(self._request, self._layout, workers, self._display)
        kept = kept_settings(self._paths, self._request, self._url)
        spaces = (space.own for space in self._spaces if space.own)
        keep_own(self._layout, [*self._request.own, *spaces])
        preparation.loss()
        for space in self._spaces if OWN_SAMPLER.fullmatch(self._request.sampler) else ():
            try_sampler(self._method(self._request), space)
        preparation.models()  # what can fail without data fails before they are read
        data = find_data(preparation, self._request, self._paths, kept, self._display)
        preparation.weights(data)
        data = replace(data, kernels=preparation.kernels(data))
        for change in _changes(kept, data.kernels, self._request.protocol) if kept else ():
            self._display.say(change)
        preparation.models(data)
        data = preparation.taps(data, _distils(self._spaces))
        preparation.loss(data)
        if kept:
            check_taps(self._paths.name, kept, data)
        context = replace(self._context, taps=data.taps, binary=data.classes == 2)
        if context != self._context:
            self._spaces = [for_study(space, context) for space in self._spaces]
        budget = measure_budget(data, self._paths, workers, self._display)
        self._spaces = [with_feasible(space, budget.feasible) for space in self._spaces]
        changed = changed_lines(self._spaces)
        for line in (*announced(self._request, data.taps), *changed) if search else ():
            self._display.say(line)
        begun = begin_settings(self._paths, self._request, self._spaces, data, kept)
        prepared = preparation.run(data, _distils(self._spaces), begun.cache)
        settings = begin_settings(self._paths, self._request, self._spaces, prepared, begun)
        method = self._method(settings, data.classes)
        arms = [self._open_arm(space, storage, settings, method, budget) for space in self._spaces]
        clock.lap("preparation")
        stage = arms, workers, self._paths, self._display, prepared
        if search:
            publisher = Publisher(self._request.protocol, self._layout.artifacts)
            for arm in arms:
                publisher.study(arm)
            self._search(Search(*stage), publisher)
            clock.lap("search")
        if not settings.sampler:
            self._record_learnt(arms)
        chosen = Confirmation(*stage).run(self._request.seeds, ablate=self._request.ablate)
        reached = max(arm.decisions.spent // arm.decisions.unit for arm in arms)
        remember_command(self._paths, reached, chosen)
        clock.lap("confirmation")
        self._compare(workers, prepared)
        clock.lap("comparison")

    def _record_learnt(self, arms: list[Arm]) -> None:
        """Record what the searches by promotion have learnt, for the report."""
        found = {arm.name: arm.decisions.learnt() for arm in arms}
        known = {name: learnt for name, learnt in found.items() if learnt}
        SearchRecord(arms=known).write(self._paths.search)

    def _search(self, search: Search, publisher: Publisher) -> None:
        """Run trials, until the time ends. Raises StudyError if it ends before the first."""
        remember_timeout(self._paths, 0.0, 0)
        planned, seconds = self._request.trials, self._request.timeout or 0.0
        reached = search.run(planned, publisher.trial, self._request.deadline)
        if not reached:
            raise StudyError(
                f"--timeout {seconds:g}s ended before the first trial; what was prepared is kept: "
                "run the command again, or with a longer --timeout"
            )
        if reached < planned:
            remember_timeout(self._paths, seconds, planned)

    def _open_arm(
        self,
        space: Space,
        storage: BaseStorage,
        settings: StudySettings,
        method: SearchMethod,
        budget: Budget,
    ) -> Arm:
        protocol = self._request.protocol
        attributes = {
            "protocol": protocol.hash,
            "space": space.digest,
            **searched_by(settings),
            "dataset": settings.dataset,
            "shards": ",".join(settings.shards),
            **({"students": budget.digest} if budget.digest else {}),
        }
        name = study_name(self._request.name, space.name)
        study = open_study(storage, name, attributes, measure(protocol.metric).maximised)
        return Arm(space, study, method, budget=budget if len(protocol.students) > 1 else None)

    def _method(self, options: Request | StudySettings, classes: int = 2) -> SearchMethod:
        protocol = self._request.protocol
        return SearchMethod(
            **{name: getattr(options, name) for name in METHOD},
            seed=protocol.seed,
            horizon=protocol.epochs,
            is_share=load_metric(protocol.metric).RANGE == (0.0, 1.0),
            classes=classes,
            own=self._layout.own,
        )

    def _compare(self, workers: WorkerPool, context: JobContext) -> None:
        """Test the teachers, and measure the costs of the models while nothing else runs."""
        for place, role in enumerate(context.protocol.teacher_roles):
            tested = self._paths.teacher_test(role)
            if not (tested.result.exists() and tested.predictions.exists()):
                places = {"folder": str(tested.folder), "seal": str(self._paths.seal)}
                workers.run(context.job(TeacherTestJob, place=place, **places))
        if not self._paths.costs.exists():
            self._display.say("measuring latency …")
            event = workers.run(context.job(CostJob))
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


def _changes(kept: StudySettings, kernels: str, protocol: Protocol) -> list[str]:
    """Return the lines on what differs from the study's earlier sessions."""
    lines = kernels_change(kept, kernels), versions_change(kept, protocol)
    return [line for line in lines if line]


def _distils(spaces: list[Space]) -> bool:
    return any(space.name != "plain" for space in spaces)
