"""A tensor file reads as it was written, or says that it is damaged."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from kd.errors import ArtifactError
from storage.files import arrays
from storage.files.tensors import map_tensors, read_checked, write_tensors
from tests.support.small import network, same_bits

NOTE = {"run": {"seed": 1}, "history": [0.5, None]}


def sample() -> dict[str, Tensor]:
    return {
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "bytes": torch.arange(6, dtype=torch.uint8).view(2, 3),
        "count": torch.tensor(7),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
    }


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "folder" / "file.safetensors"
    write_tensors(path, sample(), NOTE)
    return path


def test_tensors_and_note_read_as_they_were_written(path: Path) -> None:
    tensors, note = read_checked(path)
    assert note == NOTE
    for found in (tensors, map_tensors(path)):
        assert same_bits(found, sample())
        dtypes = {name: tensor.dtype for name, tensor in found.items()}
        assert dtypes == {name: tensor.dtype for name, tensor in sample().items()}


def test_a_file_without_a_note_has_none(tmp_path) -> None:
    write_tensors(tmp_path / "file", {"a": torch.ones(2)})
    assert read_checked(tmp_path / "file")[1] is None


def test_views_and_parameters_are_written_as_what_they_show(tmp_path) -> None:
    base = torch.arange(12.0).view(3, 4)
    given = {"turned": base.T, "row": base[1], "parameter": network().body.fc.weight}
    write_tensors(tmp_path / "file", given)
    assert same_bits(read_checked(tmp_path / "file")[0], given)


def test_the_same_tensors_give_the_same_bytes(path: Path, tmp_path) -> None:
    """Checksums name what teachers and shards are made from, whatever the order of the names."""
    again = tmp_path / "again"
    write_tensors(again, dict(reversed(sample().items())), dict(reversed(NOTE.items())))
    assert again.read_bytes() == path.read_bytes()


def test_a_state_dict_survives_the_disk(tmp_path) -> None:
    state = network(seed=3).state_dict()
    write_tensors(tmp_path / "file", state)
    assert same_bits(map_tensors(tmp_path / "file"), dict(state))


@pytest.mark.parametrize("bit", [0, 5, 7])  # 5 turns capital letters into small ones
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(path: Path, bit: int) -> None:
    """In the length, in the header and in the data; space left over in the header may change."""
    content = path.read_bytes()
    start, refusals = 8 + int.from_bytes(content[:8], "little"), []
    assert len(content) - start == 4 + 6 + 8 + 8 + 2
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            tensors, note = read_checked(path)
        except ArtifactError as error:
            refusals.append(str(error))
            in_data = "is damaged: its digest differs; delete .* to have it made"
            assert place < start or re.search(in_data, refusals[-1])
        else:
            assert place < start
            assert same_bits(tensors, sample())
            assert note == NOTE
    assert len(refusals) >= len(content) - 8
    assert all(re.search("is damaged|cannot be read", reason) for reason in refusals)
    assert not any("\n" in reason for reason in refusals)


def test_a_truncated_file_cannot_be_read_at_any_length(path: Path) -> None:
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="cannot be read"):
            map_tensors(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor file", b"\0" * 100])
def test_what_is_no_tensor_file_cannot_be_read(tmp_path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for read in (map_tensors, read_checked):
        with pytest.raises(ArtifactError, match="cannot be read") as raised:
            read(tmp_path / "file")
        assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    for place in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ArtifactError, match=re.escape(f"{place} cannot be read")):
            map_tensors(place)


def test_a_note_or_a_digest_that_someone_else_wrote_is_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "file")
    assert map_tensors(tmp_path / "file")["a"].sum() == 2
    with pytest.raises(ArtifactError, match="its digest differs"):
        read_checked(tmp_path / "file")


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tensors(path, {"a": torch.ones(1)}, {"loss": float("nan")})
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_write_that_breaks_off_leaves_the_old_file(path: Path, monkeypatch) -> None:
    before = path.read_bytes()

    def half(given: dict[str, Tensor], place: Path, metadata: dict[str, str]) -> None:
        Path(place).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(arrays, "save_file", half)
    with pytest.raises(ArtifactError, match="cannot be written: No space left"):
        write_tensors(path, sample())
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_same_bytes_under_another_dtype_are_refused(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'"U8"') == 1
    path.write_bytes(content.replace(b'"U8"', b'"I8"'))
    with pytest.raises(ArtifactError, match="its digest differs"):
        read_checked(path)


def test_a_mapped_file_may_be_replaced_while_it_is_read(path: Path) -> None:
    tensors = map_tensors(path)
    write_tensors(path, {"other": torch.zeros(1000)})
    assert same_bits(tensors, sample())
