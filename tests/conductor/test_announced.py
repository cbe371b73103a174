"""The lines that announce a run, for models that are not of the catalogue."""

from pathlib import Path
from typing import Any

import pytest

from conductor.request import Request, announced
from tests.support import fakes


def lines(**changed: Any) -> list[str]:
    given = fakes.protocol(**changed)
    spaces = ["scheduled", "plain"]
    request = Request(name="a", root=Path("runs"), protocol=given, spaces=spaces, command=[])
    return announced(request, ())


@pytest.mark.parametrize(
    ("compiled", "student", "found"),
    [
        (True, "resnet8", []),
        (False, "timm:test_vit", []),
        (
            True,
            "timm:test_vit",
            [
                "compile: graphs may break, which is slower, in models that are not of the "
                "catalogue: timm:test_vit"
            ],
        ),
    ],
)
def test_a_compiled_run_reports_models_whose_graphs_may_break(
    compiled: bool, student: str, found: list[str]
) -> None:
    given = lines(students=(student,), compile=compiled, teachers=("resnet8",))
    assert [line for line in given if line.startswith("compile")] == found


def test_the_size_of_the_teachers_images_is_announced_where_it_is_the_students() -> None:
    for size, shown in ((0, 32), (64, 64)):
        given = lines(image_size=32, teacher_size=size)
        assert any(f"teacher_size {shown}," in line for line in given)
