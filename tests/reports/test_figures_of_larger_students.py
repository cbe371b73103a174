"""The title of costs where the student is larger and slower than its teacher."""

import pytest

from reports.draw.figures.costs import _size, _speed


@pytest.mark.parametrize(
    ("ratio", "size", "speed"),
    [
        (33.4, "1/33.4 of", "is 33 times as fast"),
        (1.0, "1/1 of", "is 1 times as fast"),
        (0.0815, "12.3 times", "takes 12 times as long"),
    ],
)
def test_a_larger_or_slower_student_is_a_multiple_and_no_fraction_of_a_fraction(
    ratio: float, size: str, speed: str
) -> None:
    assert (_size(ratio), _speed(ratio)) == (size, speed)
