"""Suite folders: what is read of a good one, and what is said of one that cannot be used."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from app.runner.suites import BUILTIN, CONFIGURATIONS, SuiteError, SuiteModel, load_suite

MODELS = '[[models]]\nname = "m"\n'
TYPES = '[[types]]\nid = "basic"\ntests = ["test_one.py"]\n'

ONE = """
import pytest, a_package_that_is_not_there
LIMIT = 1

def test_first(): pass

async def test_second(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_many(n): pass

def helper(): pass

class Helper:
    def test_not_this(self): pass

class TestIt:
    def test_one(self): pass
    def other(self): pass
    class TestInner:
        def test_deep(self): pass

def testify(): pass
"""
OF_ONE = [
    "test_one.py::test_first",
    "test_one.py::test_second",
    "test_one.py::test_many",
    "test_one.py::TestIt::test_one",
    "test_one.py::TestIt::TestInner::test_deep",
    "test_one.py::testify",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good suite."""
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "suite.toml").write_text(MODELS + TYPES)
    (folder / "test_one.py").write_text(ONE)
    (folder / "more" / "inner").mkdir(parents=True)
    (folder / "more" / "test_b.py").write_text("def test_b(): pass\n")
    (folder / "more" / "test_a.py").write_text("def test_a(): pass\n")
    (folder / "more" / "inner" / "test_c.py").write_text("def test_c(): pass\n")
    (folder / "more" / "helper.py").write_text("def test_not_this(): pass\n")
    return folder


def methods(folder: Path, *tests: str) -> list[str]:
    """What a type with these tests selects."""
    listed = ", ".join(f"'{test}'" for test in tests)
    (folder / "suite.toml").write_text(f'{MODELS}[[types]]\nid = "basic"\ntests = [{listed}]\n')
    return load_suite(folder).types[0].methods


def refusal(folder: Path) -> str:
    """Why the folder is no suite; always with the file that is to be mended."""
    with pytest.raises(SuiteError) as caught:
        load_suite(folder)
    assert str(folder) in caught.value.detail
    assert "suite.toml" in caught.value.detail
    assert caught.value.title == "Suite not usable"
    return caught.value.detail.removeprefix(f"{folder / 'suite.toml'}")


# --- good ones


def test_everything_that_a_suite_says(folder: Path) -> None:
    (folder / "suite.toml").write_text(
        """
name = "Ours"
description = "What we test."
[[models]]
name = "small ü"
type = "mlp"
modality = "text"
[[models]]
name = "large"
[[types]]
id = "basic"
name = "Basic"
description = "The first."
tests = ["test_one.py"]
[[types]]
id = "deep"
tests = ["more"]
"""
    )
    suite = load_suite(folder)
    assert (suite.folder, suite.name, suite.description) == (folder, "Ours", "What we test.")
    assert suite.models == [SuiteModel(name="small ü", type="mlp", modality="text"), SuiteModel(name="large")]
    first, second = suite.types
    assert (first.id, first.name, first.description) == ("basic", "Basic", "The first.")
    assert (first.tests, first.methods) == (["test_one.py"], OF_ONE)
    assert (second.id, second.name, second.description) == ("deep", "deep", "")
    assert suite.model("large") is suite.models[1]
    assert suite.type("deep") is second
    assert suite.model("huge") is suite.type("wide") is None


def test_a_suite_without_a_name_has_that_of_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_suite(folder).name == "suite"
    monkeypatch.chdir(folder)
    suite = load_suite(Path())
    assert (suite.name, suite.folder) == ("suite", folder)


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        (["test_one.py"], OF_ONE),
        (["test_one.py::test_first"], OF_ONE[:1]),
        (["test_one.py::TestIt"], OF_ONE[3:5]),
        (["test_one.py::TestIt::TestInner"], OF_ONE[4:5]),
        (["test_one.py::TestIt::TestInner::test_deep"], OF_ONE[4:5]),
        (["test_one.py::testify", "test_one.py"], [OF_ONE[5], *OF_ONE[:5]]),
        (["more/test_b.py", "test_one.py::test_first"], ["more/test_b.py::test_b", OF_ONE[0]]),
        (
            ["more"],
            ["more/inner/test_c.py::test_c", "more/test_a.py::test_a", "more/test_b.py::test_b"],
        ),
        (["more/inner/", "./test_one.py"], ["more/inner/test_c.py::test_c", *OF_ONE]),
    ],
)
def test_what_a_type_selects(folder: Path, tests: list[str], expected: list[str]) -> None:
    assert methods(folder, *tests) == expected


def test_nothing_of_a_suite_is_imported(folder: Path) -> None:
    (folder / "conftest.py").write_text("raise AssertionError('it was imported')")
    (folder / "test_one.py").write_text("def test_a(): pass\nraise AssertionError('it was imported')")
    assert load_suite(folder).types[0].methods == ["test_one.py::test_a"]


@pytest.mark.parametrize("content", [b"def test_a(:\n", b"\xff\xfe", b"def test_a(): pass\0", b"if 1:\n x"])
def test_a_file_that_is_no_python_still_loads(folder: Path, content: bytes) -> None:
    (folder / "test_one.py").write_bytes(content)
    if content.startswith(b"if"):
        assert "test_one.py selects no test" in refusal(folder)
    else:
        assert load_suite(folder).types[0].methods == ["test_one.py"]


def test_tests_that_a_class_inherits_are_tests(folder: Path) -> None:
    (folder / "test_one.py").write_text(
        "class Checks:\n    def test_a(self): pass\n\nclass TestIt(Checks): pass\n"
    )
    assert methods(folder, "test_one.py") != []
    assert methods(folder, "test_one.py::TestIt") != []


def test_cases_of_unittest_are_tests_whatever_their_name(folder: Path) -> None:
    (folder / "test_one.py").write_text(
        "import unittest\n\nclass Cases(unittest.TestCase):\n    def test_a(self): pass\n"
    )
    assert methods(folder, "test_one.py") == ["test_one.py::Cases::test_a"]


def test_a_path_may_be_written_in_a_roundabout_way(folder: Path) -> None:
    assert methods(folder, "./test_one.py::test_first") == OF_ONE[:1]
    assert methods(folder, "more/../test_one.py::TestIt") == OF_ONE[3:5]


def test_the_suite_that_comes_with_the_server() -> None:
    suite = load_suite(BUILTIN)
    assert [model.name for model in suite.models] == ["tiny-mlp", "tiny-cnn", "tiny-bigram"]
    assert [item.id for item in suite.types] == ["basic", "comprehensive", "fault_tolerance"]
    assert all(model.type and model.modality for model in suite.models)
    basic, everything, faults = (set(item.methods) for item in suite.types)
    assert basic | faults < everything
    assert not basic & faults
    assert {method.partition("::")[0] for method in everything} == {
        file.name for file in BUILTIN.glob("test_*.py")
    }


# --- bad ones


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    said = refusal(tmp_path / "absent")
    assert "suite.toml cannot be read (No such file or directory)" in said
    assert "models and test types" in said


def test_a_folder_without_its_file(folder: Path) -> None:
    (folder / "suite.toml").unlink()
    assert "suite.toml cannot be read (No such file or directory)" in refusal(folder)
    (folder / "suite.toml").mkdir()
    assert "suite.toml cannot be read (Is a directory)" in refusal(folder)


def test_a_file_for_a_folder(folder: Path) -> None:
    assert "suite.toml cannot be read (Not a directory)" in refusal(folder / "test_one.py")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name = ", r" is not valid TOML: Invalid value"),
        (b'name = "\xff"', r" is not valid TOML: .*utf-8"),
        (b'name = "a"\nname = "b"', r" is not valid TOML: Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_no_toml(folder: Path, content: bytes, reason: str) -> None:
    (folder / "suite.toml").write_bytes(content)
    assert re.match(reason, refusal(folder))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "models: Field required"),
        (TYPES, "models: Field required"),
        (MODELS, "types: Field required"),
        ("models = []\n" + TYPES, "models: List should have at least 1 item"),
        ("types = []\n" + MODELS, "types: List should have at least 1 item"),
        ("colour = 1\n" + MODELS + TYPES, "colour: is not known; check its spelling"),
        (MODELS + "size = 1\n" + TYPES, "models[0].size: is not known"),
        (MODELS + TYPES + "files = []\n", "types[0].files: is not known"),
        ("name = 3\n" + MODELS + TYPES, "name: Input should be a valid string"),
        ('models = ["m"]\n' + TYPES, "models[0]: Input should be"),
        ('[[models]]\ntype = "mlp"\n' + TYPES, "models[0].name: Field required"),
        ('[[models]]\nname = ""\n' + TYPES, "models[0].name: "),
        (MODELS + '[[types]]\ntests = ["test_one.py"]\n', "types[0].id: Field required"),
        (MODELS + '[[types]]\nid = "basic"\n', "types[0].tests: Field required"),
        (MODELS + '[[types]]\nid = "basic"\ntests = []\n', "types[0].tests: List should have at least 1"),
        (MODELS + '[[types]]\nid = "basic"\ntests = "test_one.py"\n', "types[0].tests: Input should be"),
        (MODELS + MODELS + TYPES, "the model 'm' stands twice."),
        (MODELS + TYPES + TYPES, "the test type 'basic' stands twice."),
    ],
)
def test_content_that_is_wrong(folder: Path, content: str, reason: str) -> None:
    (folder / "suite.toml").write_text(content)
    said = refusal(folder)
    assert said.startswith(f": {reason}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ('folder = "elsewhere"\n' + MODELS + TYPES, "folder"),
        (MODELS + TYPES + 'methods = ["test_one.py::test_made_up"]\n', "types[0].methods"),
    ],
    ids=["folder", "methods"],
)
def test_what_the_server_finds_out_itself_is_no_field(folder: Path, content: str, field: str) -> None:
    (folder / "suite.toml").write_text(content)
    assert refusal(folder).startswith(f": {field}: is not known")


@pytest.mark.parametrize("test", ["test_two.py", "test_two.py::test_first", "absent", "../test_out.py", ".."])
def test_tests_that_are_not_in_the_suite(folder: Path, test: str) -> None:
    (folder.parent / "test_out.py").write_text("def test_out(): pass\n")
    name = test.partition("::")[0]
    with pytest.raises(SuiteError, match=re.escape(f"type 'basic': there is no {name} in the suite.")):
        methods(folder, test)
    refusal(folder)


def test_tests_behind_links_and_absolute_paths_are_not_in_the_suite(folder: Path) -> None:
    outside = folder.parent / "test_out.py"
    outside.write_text("def test_out(): pass\n")
    (folder / "test_link.py").symlink_to(outside)
    for test in (str(outside), "test_link.py"):
        with pytest.raises(SuiteError, match=re.escape(f"there is no {test} in the suite.")):
            methods(folder, test)


@pytest.mark.parametrize(
    "test",
    [
        "test_one.py::test_third",
        "test_one.py::test_fir",
        "test_one.py::test_many[1]",
        "test_one.py::TestIt::test_two",
        "test_one.py::Helper",
        "test_one.py::helper",
        "test_empty.py",
        "empty",
    ],
)
def test_what_selects_no_test(folder: Path, test: str) -> None:
    (folder / "test_empty.py").write_text("")
    (folder / "empty").mkdir()
    with pytest.raises(SuiteError, match=re.escape(f"type 'basic': {test} selects no test.")):
        methods(folder, test)
    refusal(folder)


# --- the configuration of pytest


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_configuration_is_the_suites_own(folder: Path, name: str) -> None:
    for around in CONFIGURATIONS:
        (folder.parent / around).write_text("")
    (folder / name).write_text("")
    assert load_suite(folder).configuration == folder / name


def test_of_several_configurations_that_of_pytest_counts(folder: Path) -> None:
    for name in ("tox.ini", "pyproject.toml", "pytest.ini"):
        (folder / name).write_text("")
        assert load_suite(folder).configuration == folder / name


def test_no_configuration_is_an_empty_one(folder: Path) -> None:
    for around in CONFIGURATIONS:
        (folder.parent / around).write_text("")
    (folder / "pytest.ini").mkdir()
    assert load_suite(folder).configuration == Path(os.devnull)
    assert load_suite(BUILTIN).configuration == BUILTIN / "pytest.ini"
