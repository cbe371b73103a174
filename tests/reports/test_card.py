"""The model card names what a student is made of, and calls its examples what they are."""

from dataclasses import replace
from typing import Any

import pytest

from kd.data.inputs import Arrays, Inputs
from kd.json_data import to_wire
from reports.findings import Findings, find
from reports.read.collect import collect
from reports.write.card import Exported, model_card
from tests.support.small import square
from tests.support.study_fixture import Plan, fabricate

WAVES = Arrays(shape=(2, 24), kept="float32")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    made = fabricate(tmp_path_factory.mktemp("card"), Plan(trials=4, seeds=3))
    return find(collect(made.layout, made.name, made.url))


def card(findings: Findings, inputs: Inputs, **config: Any) -> str:
    tuned = findings.data.tuned("scheduled")
    assert tuned is not None
    known = {"model": "resnet8", "classes": 10, "channels": 1, "inputs": to_wire(inputs)}
    exported = Exported(
        finalist=tuned,
        run=tuned.tested[0],
        config=known | config,
        own=("mine-0123456789ab/mine.py",) if ".py" in config.get("model", "") else (),
        images=64,
        onnx_differences={"1": 1e-6},
    )
    return model_card(findings, exported).replace("\\", "")


def test_a_model_of_a_library_needs_its_version(findings: Findings) -> None:
    text = card(findings, square(), model="timm:resnet26t", needs=["timm 1.0.31"])
    assert "in this folder, with PyTorch, timm 1.0.31 and safetensors:" in text
    assert "code of timm 1.0.31: another version may build another model" in text
    assert "the licence of that package applies" in text
    assert "the licence" not in card(findings, square(), needs=[])


def test_arrays_are_never_called_images(findings: Findings) -> None:
    findings = replace(findings, data=replace(findings.data, example="example"))
    text = card(findings, WAVES, model="mine.py:small@0123456789ab", needs=[])
    body = text[: text.index("## Limits")]  # which ends with the study's limitations
    verdict = next(line for line in body.splitlines() if line.startswith("> "))
    assert "image" not in body.replace(verdict, "").lower()
    assert "what `mine-0123456789ab/mine.py` imports" in body
    assert "logits = student(arrays)" in body
    assert 'session.run(["logits"], {"arrays": arrays})' in body
    measured = card(findings, WAVES, model=findings.data.protocol.student)
    assert "| multiply-accumulates per example |" in measured
    assert "crops" not in body
    assert "With other sensors or classes" in text


def test_images_are_called_images(findings: Findings) -> None:
    text = card(findings, square())
    for words in ("test images", "over seeds and test images", "on the same images and received"):
        assert words in text
    assert "With other light, sensors or classes" in text
    assert "labels are mixed" not in text
    augment = "crop=1,mixup=0.2"
    data = replace(findings.data, protocol=replace(findings.data.protocol, augment=augment))
    text = card(replace(findings, data=data), square())
    assert f"augmentation: {augment}, whose labels are mixed by the same shares." in text
