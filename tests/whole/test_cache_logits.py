"""A study whose cache keeps the largest logits of two teachers, from the command line."""

import json
import re
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from storage.files.layout import Layout
from tests.support.tiny import FLAGS, changed, hasten, refuse

ONE, TWO = "resnet8-w0.25", "resnet14-w0.25"
KEPT = ("--teacher", ONE, "--teacher", TWO, "--trials", "1", "--cache-logits", "top3")


def test_a_study_of_the_largest_logits_goes_to_its_report_and_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    root = tmp_path / "runs"
    place = ["--root", str(root), "--workers", "inline", "--name", "digits"]
    assert main([*changed(FLAGS.split(), KEPT), "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "cache_logits top3" in said
    assert re.search(r"teacher cache: 2 views of each of 2 teachers, [\d.]+ KB\n", said)
    report = json.loads(Layout(root).study("digits").report_json.read_text())
    assert [one for one in report["caveats"] if "logits" in one] == [
        "Of the teachers' logits for an image, students learned from the 3 largest, in float16, "
        "and one number for all other classes: their probability together is exact at temperature "
        "1 and too large above. python study.py verify shows the error."
    ]
    assert main(["verify", *place]) == 0
    said = capsys.readouterr().out
    for name in (ONE, TWO):
        assert f"2 views agree with the teacher {name} to " in said
        [line] = re.findall(rf"^--cache-logits top3 {name}: (.*)$", said, re.MULTILINE)
        figure = r"\d[\d.e-]*"
        assert re.fullmatch(
            rf"logits differ from the teacher's by at most {figure}, and distributions by a KL "
            rf"divergence, in nats, of {figure} on average and {figure} at most at T = 1, "
            rf"{figure} on average and {figure} at most at T = 4, "
            rf"{figure} on average and {figure} at most at T = 10",
            line,
        )
    assert main(["reproduce", "--trial", "0", *place]) == 0
    assert "equal to the last bit" in capsys.readouterr().out
    said = refuse(root, capsys, *KEPT[:-1], "float16")
    assert "has another protocol (cache_logits: top3 -> float16)" in said
