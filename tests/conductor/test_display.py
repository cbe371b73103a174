"""What is shown: plain lines in a pipe, a live view on a terminal, and no text as markup."""

import io

import pytest
from rich.console import Console

from conductor.display import Display

HOSTILE = "[bold red]x[/] [/nonsense] [link=http://x]"


class Clock:
    """Stands in for the module `time` in `conductor.display`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("conductor.display.time", clock)
    return clock


@pytest.fixture
def plain():
    return Display(Console(file=io.StringIO(), force_terminal=False, soft_wrap=True))


@pytest.fixture
def terminal():
    console = Console(
        file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None
    )
    return Display(console)


def said(display: Display) -> list[str]:
    return display.console.file.getvalue().splitlines()


def screen(display: Display) -> str:
    """Return the live view as it is now."""
    with display.console.capture() as captured:
        display.console.print(display._view())
    return captured.get()


def test_lines_are_plain_when_there_is_no_terminal(plain):
    assert not plain.is_live
    with plain.showing(), plain.bar("teacher", 3) as bar:
        bar(1, 3)
        plain.begin("trials", 2, 0)
        plain.run_started("a", "plain 0", 5)
        plain.epoch("a", 1, "50.0 %")
        plain.summarise("plain", "plain: 1 trials")
        plain.run_ended("a", "plain 0: 50.0 %")
    lines = said(plain)
    assert lines[0] == "teacher …"
    assert lines[1].startswith("plain 0: 50.0 %")
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)


def test_a_long_line_is_not_broken_in_a_pipe():
    display = Display()
    display.console.file = io.StringIO()
    display.say("word " * 100)
    assert len(said(display)) == 1


@pytest.mark.parametrize("kind", ["plain", "terminal"])
def test_text_from_outside_is_shown_as_it_is(kind, request):
    display = request.getfixturevalue(kind)
    display.say(HOSTILE)
    assert said(display) == [HOSTILE]


def test_a_line_that_is_printed_while_the_view_is_live_stays(terminal):
    with terminal.showing():
        terminal.say(HOSTILE)
    assert any(HOSTILE in line for line in said(terminal))


def test_the_live_view_shows_stage_arms_runs_and_bars_as_they_are(terminal, clock):
    assert terminal.is_live
    terminal.begin(f"trials {HOSTILE}", 10, 2)
    terminal.run_started("a", f"plain 7 {HOSTILE}", 12)
    terminal.run_started("b", "plain 8", 12)
    terminal.epoch("a", 3, "62.5 %")
    terminal.summarise("plain", f"plain: best {HOSTILE}")
    with terminal.bar("shards", 8) as bar:
        bar(3, 8)
        shown = screen(terminal)
    for text in (
        f"trials {HOSTILE}: 2 of 10",
        f"plain 7 {HOSTILE}",
        "3/12",
        "62.5 %",
        "0/12",
        f"plain: best {HOSTILE}",
        "shards",
        "3/8",
    ):
        assert text in shown
    assert "shards" not in screen(terminal)


def test_a_bar_may_be_named_by_anything(terminal):
    with terminal.bar(f"data: folder:{HOSTILE}", 1):
        assert HOSTILE in screen(terminal)


def test_a_run_leaves_the_view_when_it_ends(terminal):
    terminal.begin("trials", 2, 0)
    terminal.run_started("a", "plain 0", 5)
    assert "plain 0" in screen(terminal)
    terminal.run_ended("a", "done")
    shown = screen(terminal)
    assert "plain 0" not in shown
    assert "1 of 2" in shown


def test_time_left_follows_from_the_runs_that_ended_in_this_session(plain, clock):
    plain.begin("trials", 12, 2)
    for ended, text in ((60, "9 min 00 s"), (120, "8 min 00 s")):
        clock.now = 100 + ended
        plain.run_ended("a", "ended")
        assert said(plain)[-1] == f"ended · {text} left"


def test_no_time_is_left_after_the_last_run(plain, clock):
    plain.begin("trials", 1, 0)
    clock.now += 60
    plain.run_ended("a", "ended")
    assert said(plain) == ["ended"]


def test_the_live_view_shows_the_time_left_once(terminal, clock):
    terminal.begin("trials", 3, 0)
    assert "left" not in screen(terminal)
    clock.now += 60
    terminal.run_ended("a", "ended")
    assert "2 min 00 s left" in screen(terminal)
    assert said(terminal) == ["ended"]


def test_the_cursor_is_given_back_when_the_study_is_interrupted(terminal):
    def interrupted() -> None:
        with terminal.showing():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    written = terminal.console.file.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0
