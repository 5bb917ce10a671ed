"""A suite: a folder of pytest files, and a `suite.toml` that names its models and test types."""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import AppError
from app.schemas.common import Name
from app.schemas.validation import field_errors

FILE = "suite.toml"
BUILTIN = Path(__file__).parent.parent / "suites" / "builtin"
CONFIGURATIONS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini")


class SuiteError(AppError):
    """The suite folder cannot be used."""

    title = "Suite not usable"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteModel(_Strict):
    """A model that the suite tests."""

    name: Name
    type: str = ""
    modality: str = ""


class SuiteType(_Strict):
    """A test type: the tests of the suite that it selects."""

    id: Name
    name: str = ""
    description: str = ""
    tests: Annotated[list[str], Field(min_length=1)]
    """Node ids of pytest, relative to the folder: `test_load.py`, `test_load.py::TestIt::test_one`."""
    methods: list[str] = Field(default_factory=list)
    """The ids of the test functions; read from the files, not imported."""


class Suite(_Strict):
    """What a suite folder offers."""

    folder: Path
    name: str
    description: str = ""
    models: Annotated[list[SuiteModel], Field(min_length=1)]
    types: Annotated[list[SuiteType], Field(min_length=1)]

    def model(self, name: str) -> SuiteModel | None:
        return next((model for model in self.models if model.name == name), None)

    def type(self, type_id: str) -> SuiteType | None:
        return next((item for item in self.types if item.id == type_id), None)

    @property
    def configuration(self) -> Path:
        """The file that configures pytest: the suite's own or none, never one of a folder around it."""
        files = (self.folder / name for name in CONFIGURATIONS)
        return next((file for file in files if file.is_file()), Path(os.devnull))


def load_suite(folder: Path) -> Suite:
    """Reads a suite folder; raises SuiteError, which says what is wrong with it."""
    folder = folder.resolve()
    file = folder / FILE
    try:
        with file.open("rb") as stream:
            told = tomllib.load(stream)
    except OSError as error:
        raise SuiteError(
            f"{folder} is not a suite: {FILE} cannot be read ({error.strerror}); "
            "it names the models and test types."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file} is not valid TOML: {error}") from error
    own = [f"types[{place}].methods" for place, item in enumerate(_tables(told)) if "methods" in item]
    for field in [*({"folder"} & told.keys()), *own]:  # the server finds these out itself
        raise SuiteError(f"{file}: {field}: is not known; check its spelling")
    try:
        suite = Suite.model_validate({"name": folder.name, **told, "folder": folder})
    except ValidationError as error:
        wrong = field_errors(error.errors(include_url=False, include_input=False))[0]
        raise SuiteError(f"{file}: {wrong.field}: {wrong.message}") from error
    for what, names in (
        ("model", [model.name for model in suite.models]),
        ("test type", [item.id for item in suite.types]),
    ):
        if twice := {name for name in names if names.count(name) > 1}:
            raise SuiteError(f"{file}: the {what} {min(twice)!r} stands twice.")
    types = [
        item.model_copy(update={"name": item.name or item.id, "methods": list(_methods(folder, item))})
        for item in suite.types
    ]
    return suite.model_copy(update={"types": types})


def _tables(told: dict[str, Any]) -> list[dict[str, Any]]:
    types = told.get("types")
    return [item if isinstance(item, dict) else {} for item in types] if isinstance(types, list) else []


def _methods(folder: Path, type_: SuiteType) -> Iterator[str]:
    seen: dict[str, None] = {}
    for test in type_.tests:
        name, _, inside = test.partition("::")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder) or not path.exists():
            raise SuiteError(f"{folder / FILE}: type {type_.id!r}: there is no {name} in the suite.")
        files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found = [
            node_id
            for file in files
            for node_id in _functions(file, file.relative_to(folder).as_posix())
            if not inside or f"{node_id}::".startswith(f"{file.relative_to(folder).as_posix()}::{inside}::")
        ]
        if not found:
            raise SuiteError(f"{folder / FILE}: type {type_.id!r}: {test} selects no test.")
        seen |= dict.fromkeys(found)
    yield from seen


def _functions(file: Path, prefix: str) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError):
        # The run itself will say what is wrong with it.
        yield prefix
        return
    yield from _tests(tree.body, prefix)


def _tests(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield f"{prefix}::{node.name}"
        elif isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or _is_unittest(node)):
            name = f"{prefix}::{node.name}"
            own = list(_tests(node.body, name))
            yield from own
            if not own and node.bases:
                yield name  # it inherits its tests, from wherever


def _is_unittest(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("TestCase") for base in node.bases)
