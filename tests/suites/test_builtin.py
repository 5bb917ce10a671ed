"""The built-in suite passes as it is, and each of its tests fails when the models have a fault."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from app.runner.suites import BUILTIN, load_suite
from app.vocabulary import StepStatus
from tests.suites.breaks import BREAKS, Break
from tests.suites.sessions import broken_copy, python, session

SUITE = load_suite(BUILTIN)
TYPES = {item.id: item for item in SUITE.types}
EVERYTHING = TYPES["comprehensive"]
UNITS = {
    "cpu.accuracy": "",
    "cpu.latency": "ms",
    "cpu.latency_p95": "ms",
    "cpu.load_time": "ms",
    "cpu.memory": "mb",
    "cpu.model_memory": "mb",
    "cpu.parameters": "",
    "cpu.throughput": "items/s",
}
METRICS = {
    "basic": UNITS.keys() - {"cpu.model_memory"},
    "comprehensive": UNITS.keys(),
    "fault_tolerance": {"cpu.model_memory"},
}
SECONDS = {"basic": 3, "comprehensive": 6, "fault_tolerance": 4}
FREE_OF_HARDWARE = {"test_unknown_model", "test_another_platform"}


NAME = """
import pathlib, sys, tiny_models
print(tiny_models.read(pathlib.Path(sys.argv[1])).name)
"""
ALIKE = """
import pathlib, sys, tiny_models, tiny_models.data
for name in tiny_models.KINDS:
    inputs = [x for x, _ in tiny_models.data.held_out(name)]
    shipped, anew = tiny_models.load(name), tiny_models.read(pathlib.Path(sys.argv[1], f"{name}.json"))
    pairs = zip(shipped.predict_batch(inputs), anew.predict_batch(inputs))
    print(sum(a.label == b.label for a, b in pairs) / len(inputs))
"""


def functions(type_id: str) -> set[str]:
    return {method.partition("::")[2] for method in TYPES[type_id].methods}


@pytest.mark.parametrize("model", [model.name for model in SUITE.models])
@pytest.mark.parametrize("type_id", TYPES)
def test_it_passes_quickly(type_id: str, model: str, tmp_path: Path) -> None:
    done = session(tmp_path, *TYPES[type_id].tests, model=model)
    assert done.code == 0, done.output
    assert {test.status for test in done.tests} == {"passed"}
    assert done.functions("passed") == functions(type_id)
    assert done.seconds < SECONDS[type_id]
    assert {metric.name: metric.unit for metric in done.metrics} == {
        name: UNITS[name] for name in METRICS[type_id]
    }
    assert all(0 < float(metric.value) < math.inf for metric in done.metrics)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.what)
def test_its_tests_find_a_fault(broken: Break, tmp_path: Path) -> None:
    suite = broken_copy(tmp_path, broken)
    done = session(tmp_path, *EVERYTHING.tests, model=broken.model, suite=suite)
    assert done.code == 1, done.output
    assert done.functions("failed", "error") == broken.found_by


def test_each_of_its_tests_finds_a_fault() -> None:
    assert set().union(*(broken.found_by for broken in BREAKS)) == functions("comprehensive")


def test_what_it_attaches(tmp_path: Path) -> None:
    done = session(tmp_path, "test_saving.py", model="tiny-cnn")
    (attached,) = done.artifacts
    assert python(BUILTIN, "-c", NAME, attached.path) == "tiny-cnn\n"


def test_another_platform_is_skipped_with_the_reason(tmp_path: Path) -> None:
    done = session(tmp_path, *EVERYTHING.tests, model="tiny-mlp", hardware="cuda")
    assert done.code == 0, done.output
    assert done.functions("passed") == FREE_OF_HARDWARE
    assert done.functions("skipped") == functions("comprehensive") - FREE_OF_HARDWARE
    assert {test.error for test in done.tests if test.status is StepStatus.SKIPPED} == {
        "the built-in models compute on the CPU only, not on 'cuda'"
    }
    assert done.metrics == []


def test_a_model_that_it_does_not_have(tmp_path: Path) -> None:
    done = session(tmp_path, *TYPES["basic"].tests, model="bert")
    assert done.code == 1
    assert done.functions("error", "failed") == functions("basic")
    assert "there is no model 'bert', only tiny-mlp, tiny-cnn, tiny-bigram" in done.output


def test_its_weights_can_be_made_anew(tmp_path: Path) -> None:
    python(BUILTIN, "-m", "tiny_models.train", tmp_path)
    shares = python(BUILTIN, "-c", ALIKE, tmp_path).split()
    # Not the same bytes: Python versions add floats up in ways of their own.
    assert len(shares) == len(SUITE.models)
    assert min(map(float, shares)) > 0.95
