"""Test images in the report: which are read, when, and what becomes of them."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.errors import ArtifactError
from reports.draw.pictures import LARGEST, data_uri, read_examples
from reports.draw.side_by_side import compare_studies
from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.write.markdown import markdown, markdown_of_all
from reports.write.page import render_comparison, render_page
from storage.files.artifacts import MANIFEST, read_json, write_json
from storage.files.seal import opened_images, openings, record_opening
from tests.support.study_fixture import Fabricated, card_of


@pytest.fixture
def findings(data: StudyData) -> Findings:
    return find(data)


def decoded(uri: str) -> Image.Image:
    head, _, code = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(code)))


def test_a_picture_has_the_pixels_of_its_image() -> None:
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 256, (1, 5, 4), np.uint8)
    assert np.array_equal(np.asarray(decoded(data_uri(grey))), grey[0])
    colour = generator.integers(0, 256, (3, 5, 4), np.uint8)
    assert np.array_equal(np.asarray(decoded(data_uri(colour))), np.moveaxis(colour, 0, -1))


def test_a_large_image_is_reduced() -> None:
    assert decoded(data_uri(np.zeros((3, 224, 224), np.uint8))).size == (LARGEST, LARGEST)


def test_examples_are_the_images_that_the_findings_name(
    small: Fabricated, findings: Findings
) -> None:
    images = read_examples(small.layout, findings)
    named = [one.image for found in findings.classes.confusions for one in found.examples]
    assert set(images) == set(named) != set()
    assert all(np.all(image == place % 256) for place, image in images.items())


def test_showing_examples_opens_nothing_again(small: Fabricated, findings: Findings) -> None:
    before = openings(small.study.seal)
    read_examples(small.layout, findings)
    assert openings(small.study.seal) == before


def test_images_of_a_sealed_split_are_refused(small: Fabricated, tmp_path: Path) -> None:
    folder = small.layout.dataset("d0d1d2d3d4d5d6d7")
    seal = tmp_path / "seal.json"
    with pytest.raises(ArtifactError, match="the test split is sealed"):
        opened_images(folder, seal, [0])
    record_opening(seal, "a test")
    assert opened_images(folder, seal, [3, 1])[:, 0, 0, 0].tolist() == [3, 1]
    with pytest.raises(ArtifactError, match=r"test\.safetensors"):
        opened_images(folder, seal, [80])


def test_of_arrays_no_text_calls_an_example_an_image_and_no_picture_is_shown(
    copied: Fabricated, findings: Findings
) -> None:
    path = copied.layout.dataset("d0d1d2d3d4d5d6d7") / MANIFEST
    manifest, shape = read_json(path), {"type": "Arrays", "shape": [3, 5], "kept": "float32"}
    assert read_examples(copied.layout, findings) != {}
    write_json(path, {**manifest, "info": {**manifest["info"], "inputs": shape}})
    data = copied.read()
    students = (*data.protocol.students, "resnet8")
    found = find(replace(data, protocol=replace(data.protocol, students=students)))
    assert read_examples(copied.layout, found) == {}
    other = find(replace(data, settings=replace(data.settings, dataset="other")))
    together = compare_studies([other, found])
    for text in (
        render_page(found).partition("<script>")[0].partition("</style>")[2],
        markdown(found),
        card_of(found, shape),
        render_comparison(together).partition("</style>")[2],
        markdown_of_all(together),
    ):
        assert not re.search(r"\bimages?\b", text, re.IGNORECASE)


def test_without_a_record_of_openings_or_a_data_set_there_are_no_examples(
    small: Fabricated, findings: Findings, tmp_path: Path
) -> None:
    assert (
        read_examples(small.layout, replace(findings, data=replace(findings.data, seal=()))) == {}
    )
    shutil.copytree(small.layout.root, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "cache")
    assert read_examples(replace(small.layout, root=tmp_path / "runs"), findings) == {}
