"""The frame of the benchmarks: what it makes of times. Nothing is timed here."""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import apart, harness, machine
from tests.benchmarks.apart import BenchmarkError, measured
from tests.benchmarks.harness import Figure, ratio, spread
from tests.benchmarks.page import BEGIN, END, line, replaced, tables

FOLDER = Path(command.__file__).parent
FIGURE = Figure(what="a / b", median=1.234, low=1.0, high=120.4, goal=1.5, note="1 thread")


class Clock:
    """A clock that goes on only while an action runs, by as much as the action says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def action(self, name: str, *durations: float) -> Callable[[], None]:
        """Return an action that takes each of the durations in turn, then the last for ever."""
        left = list(durations)

        def act() -> None:
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return act


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


def test_a_ratio_is_the_median_over_rounds_of_one_ratio_a_round(clock: Clock) -> None:
    figure = ratio(
        "a / b",
        clock.action("a", 9, 2, 9, 8),
        clock.action("b", 9, 1, 3, 1),
        rounds=3,
        goal=2.5,
        note="warm",
    )
    # Not 8 / 1, the ratio of the medians: the rounds are 2 / 1, 9 / 3 and 8 / 1.
    assert (figure.median, figure.low, figure.high) == (3, 2, 8)
    assert figure.reached is False
    assert figure.note == "warm; 8.00 s against 1.00 s"


def test_both_warm_up_and_then_take_turns_at_going_first(clock: Clock) -> None:
    ratio("a / b", clock.action("a", 1), clock.action("b", 1), rounds=3)
    assert "".join(clock.ran) == "ab" + "ba" + "ab" + "ba"


def test_scale_is_for_a_first_that_does_more_at_once(clock: Clock) -> None:
    figure = ratio("a / b", clock.action("a", 0.5), clock.action("b", 0.1), scale=0.1, rounds=2)
    assert figure.median == pytest.approx(0.5)
    assert figure.note == "50.0 ms against 100.0 ms"


def test_a_spread_is_median_least_and_greatest() -> None:
    figure = spread("x", [5.0, 1.0, 2.0], unit="ms", goal=2.0)
    assert (figure.median, figure.low, figure.high, figure.unit) == (2.0, 1.0, 5.0, "ms")


@pytest.mark.parametrize(
    ("goal", "at_least", "reached"),
    [
        (2.0, False, True),
        (1.9, False, False),
        (2.0, True, True),
        (2.1, True, False),
        (None, False, None),
    ],
)
def test_a_goal_is_reached_by_the_median(
    goal: float | None, at_least: bool, reached: bool | None
) -> None:
    figure = spread("x", [1.0, 2.0, 9.0], goal=goal, at_least=at_least)
    assert figure.reached is reached


def test_a_figure_is_one_line() -> None:
    assert line(FIGURE) == "a / b: 1.23 (1.00 to 120), goal at most 1.5: reached; 1 thread"
    slow = spread("size", [2345.6], unit="MB", goal=3000, at_least=True)
    assert line(slow) == "size: 2,346 MB (2,346 to 2,346), goal at least 3000 MB: missed"
    assert line(spread("told", [0.5])) == "told: 0.500 (0.500 to 0.500)"


def test_tables_have_the_machine_and_a_table_a_benchmark() -> None:
    text = tables({"cores": "2"}, {"training": [FIGURE], "inputs": []})
    assert "| cores | 2 |" in text
    assert text.index("### Training") < text.index("a / b") < text.index("### Inputs")
    assert "| a / b | 1.23 | 1.00 to 120 | at most 1.5 | yes | 1 thread |" in text
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 7}


def test_what_is_between_the_markers_is_replaced_and_the_rest_kept() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter {END}\n"
    once = replaced(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter {END}\n"
    assert replaced(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        replaced(page, "new")


def test_the_page_in_the_repository_has_its_markers() -> None:
    assert replaced(command.PAGE.read_text(encoding="utf-8"), "new")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page to write, and benchmarks that yield one figure each, which has their name."""
    path = tmp_path / "page.md"
    path.write_text(f"{BEGIN}\nold\n{END}\n")
    monkeypatch.setattr(command, "PAGE", path)
    monkeypatch.setattr(command, "measured", lambda name, quick: iter([spread(name, [1.0])]))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Names of the benchmarks that said to begin, in order."""
    lines = capsys.readouterr().out.splitlines()
    return [each[3:] for each in lines if each.startswith("== ") and ":" not in each]


def test_all_benchmarks_run_in_order_and_are_written(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0
    assert tuple(printed(capsys)) == command.BENCHMARKS
    text = page.read_text()
    assert "old" not in text
    assert [name for name in command.BENCHMARKS if f"| {name} | 1.00 |" not in text] == []


def test_named_benchmarks_run_in_their_order_and_the_page_stays(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--only", "supervisor", "training"]) == 0
    assert printed(capsys) == ["training", "supervisor"]
    assert "old" in page.read_text()


def test_a_quick_run_leaves_the_page_as_it_is(page: Path) -> None:
    assert command.main(["--quick"]) == 0
    assert "old" in page.read_text()


def test_a_name_that_is_no_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "harness"])
    assert ended.value.code == 2
    assert "invalid choice: 'harness'" in capsys.readouterr().err


def test_a_benchmark_that_fails_lets_the_others_run_but_not_the_page_change(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_inputs(name: str, quick: bool) -> Iterator[Figure]:
        yield spread(name, [1.0])
        if name == "inputs":
            raise BenchmarkError("inputs failed")

    monkeypatch.setattr(command, "measured", fail_inputs)
    assert command.main([]) == 1
    assert tuple(printed(capsys)) == command.BENCHMARKS
    assert "old" in page.read_text()


def test_a_benchmark_sends_its_figures_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("invented")
    module.figures = lambda quick: (spread(f"{quick} {n}", [n]) for n in range(3))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests.benchmarks.invented", module)
    here, there = Pipe(duplex=False)
    apart._measure("invented", True, there)
    assert [here.recv() for _ in range(3)] == [spread(f"True {n}", [n]) for n in range(3)]


def test_a_benchmark_whose_process_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchmarkError, match="no_such_benchmark failed: exit code 1"):
        list(measured("no_such_benchmark", True))
    assert "ModuleNotFoundError" in capfd.readouterr().err


LONG = """
import sys, time
from types import ModuleType
from tests.benchmarks import apart

def figures(quick):
    import os
    yield os.getpid()
    time.sleep(600)

made = sys.modules["tests.benchmarks.long"] = ModuleType("long")
made.figures = figures
if __name__ == "__main__":
    for process in apart.measured("long", True):
        print(process, flush=True)
"""


def test_a_benchmark_ends_with_what_started_it(tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        assert started.stdout
        process = int(started.stdout.readline())
        started.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{process}/cmdline").exists()


def test_every_module_that_measures_is_run() -> None:
    trees = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py")}
    measuring = {
        name
        for name, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "figures" for node in tree.body)
    }
    assert measuring == set(command.BENCHMARKS)


def test_the_machine_is_described_by_what_its_kernel_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast 9000\n" * 2)
    (tmp_path / "governor").write_text("powersave\n")
    monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "GOVERNOR", tmp_path / "governor")
    found = machine.described()
    assert (found["processor"], found["governor"]) == ("Fast 9000", "powersave")
    assert "torch 2" in found["packages"]
    monkeypatch.setattr(machine, "GOVERNOR", tmp_path / "gone")
    assert machine.described()["governor"] == "unknown"
