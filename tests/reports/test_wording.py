"""Numbers as they are written: sizes, times, shares."""

import pytest

from kd.errors import ProtocolError
from reports.wording import (
    binary_size,
    duration,
    figure,
    listed,
    measure,
    parse_size,
    parse_time,
    percent,
    points,
    scaled,
    show_size,
    tap_words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (points(-0.00123, sign=True), "−0.12"),
        (points(0.00004, sign=True), "0.00"),
        (points(-0.00001), "0.00"),
        (points(0.0123, sign=True), "+1.23"),
        (measure("accuracy").interval(-0.001, 0.012), "−0.10 to +1.20"),
        (figure(0.05), "0.05"),
        (figure(1234.6), "1235"),
        (figure(2e-5), "2e-05"),
        (scaled(11_173_962), "11.2 M"),
        (scaled(999_400), "999 k"),
        (scaled(999_999), "1 M"),
        (binary_size(23_016), "22.5 KiB"),
        (binary_size(1023 * 2**10), "1023 KiB"),
        (percent(0.97214), "97.21 %"),
        (percent(0.12345, 1), "12.3 %"),
        (duration(None), "–"),
        (duration(0), "0 s"),
        (duration(0.4), "0.4 s"),
        (duration(4.84), "4.8 s"),
        (duration(9.96), "10 s"),
        (duration(48), "48 s"),
        (duration(59.4), "59 s"),
        (duration(59.6), "1 min 00 s"),
        (duration(185), "3 min 05 s"),
        (duration(3599), "59 min 59 s"),
        (duration(3599.7), "1 h 00 min"),
        (duration(7620), "2 h 07 min"),
        (duration(100 * 3600), "100 h 00 min"),
        (show_size(0), "0 B"),
        (show_size(999), "999 B"),
        (show_size(1000), "1.0 KB"),
        (show_size(9_300_000_000), "9.3 GB"),
        (show_size(10**13), "10.0 TB"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_are_put_into_words(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9),
        ("512 MB", 512 * 10**6),
        ("1.5kb", 1500),
        ("2T", 2 * 10**12),
        ("7", 7),
        ("0", 0),
        (" 3 B ", 3),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["20XB", "GB", "", "-1GB", "1e9", "1,5GB", "20GiB", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="a size is a number and a unit, such as 20GB"):
        parse_size(text)


def test_taps_are_told_by_their_modules() -> None:
    one = {"last1": {"teacher": "layer4", "timm:vit": "blocks"}}
    assert tap_words(one) == "last1 layer4 -> blocks"
    two = {**one, "last2": {"teacher": "layer3", "timm:vit": "blocks.3"}}
    assert tap_words(two) == "last1 layer4 -> blocks, last2 layer3 -> blocks.3"
    students = {"last1": {"teacher": "layer4", "resnet8": "layer3", "n.py:f@0123456789ab": "net"}}
    assert tap_words(students) == "last1 layer4 -> layer3 of resnet8 or net of n.py:f"
    assert tap_words({"last1": {"teacher": "a", "resnet8": "b", "resnet14": "b"}}) == "last1 a -> b"
    assert tap_words({}) == "none in common"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("3600s", 3600),
        ("1h30m", 5400),
        ("1h 5s", 3605),
        ("1.5H", 5400),
    ],
)
def test_a_time_is_read(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "2d", "30m1h", "-1s", "h", "1h30", "inf s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ProtocolError, match="a time is hours, minutes or seconds, such as 2h"):
        parse_time(text)
