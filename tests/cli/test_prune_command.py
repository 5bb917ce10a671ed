"""Pruning from the command line, through a server and without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Twins, Way, answer, invoke, refused
from tests.cli.strangers import http, stranger

AGE = ("--older-than", "7300d")
"""So old are only the runs that this module stores: the databases are shared with other tests."""


@pytest.fixture
def stored(twins: Twins, tmp_path: Path) -> tuple[Way, Way]:
    """Both ways to two runs of long ago, one of them tagged."""
    for name in ("plain", "tagged"):
        test = f'<testcase name="{name}" time="1"/>'
        file = tmp_path / f"{name}.xml"
        file.write_text(f'<testsuite name="old-{name}" timestamp="2001-02-03T04:05:06Z">{test}</testsuite>')
        tags = ["--tag", "release=1"] if name == "tagged" else []
        for way in twins.ways:
            answer("import", *way, str(file), *tags)
    return twins.ways


def models(way: Way) -> set[str]:
    found = answer("runs", *way, "--until", "2002-01-01")
    return {run["model_name"] for run in found}


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {table: count for table, count in found["deleted"].items() if count}


def test_old_runs_go_each_way(stored: tuple[Way, Way]) -> None:
    one = {"test_runs": 1, "test_run_results": 1, "test_run_steps": 1}
    kept = (*AGE, "--keep-tag", "release", "--keep-tag", "never=used")
    for way in stored:
        rehearsed = answer("prune", *way, *kept, "--dry-run")
        assert counts(rehearsed) == one
        assert models(way) == {"old-plain", "old-tagged"}
        done = answer("prune", *way, *kept)
        assert (done["status"], done["deleted"]) == ("success", rehearsed["deleted"])
        assert models(way) == {"old-tagged"}
        told = invoke("prune", *way, *AGE)
        assert (told.exit_code, told.stderr) == (0, "")
        assert told.stdout.startswith("Deleted 1 run older than 7300d: ")
        assert models(way) == set()


@pytest.mark.parametrize("age", [[], ["--older-than", "90"], ["--older-than", "soon"]])
def test_an_age_that_is_none_is_wrong_usage(age: list[str]) -> None:
    assert "--older-than" in refused("prune", *age, code=2)


@pytest.mark.parametrize("name", ["retention", "retention-every"])
def test_a_setting_that_is_no_age_is_wrong_usage(name: str) -> None:
    said = refused("serve", f"--{name}", "90", code=2)
    assert f"TESTDB_{name.upper().replace('-', '_')}" in said
    assert "90d" in said


LAST = {"at": "2026-02-03T04:05:06Z", "runs": 1, "seconds": 0.5, "error": None}
TOLD = {
    "last 2026-02-03 04:05:06Z, 1 run in 0.50s": LAST,
    "last 2026-02-03 04:05:06Z, 2 runs in 0.50s, then: away": LAST | {"runs": 2, "error": "away"},
    "not yet": None,
}


@pytest.mark.parametrize(("told", "last"), TOLD.items(), ids=["well", "badly", "not yet"])
def test_the_last_time_is_told_to_people(told: str, last: dict[str, Any] | None) -> None:
    state = {"retention": "90d", "keep_tags": [], "every": "1d", "last": last}
    deleted = {"message": "Deleted.", "timestamp": "2026-02-03T04:05:06Z", "deleted": {}}
    answers = {"runs": http([]), "prune": http(deleted), "retention": http(state)}
    with stranger(lambda path: answers[path.rpartition("/")[2]]) as url:
        for command, said in ((["runs"], "No runs.\n"), (["prune", *AGE], "Deleted.\n")):
            shown = invoke(*command, "--url", url)
            assert (shown.exit_code, shown.stdout) == (0, said)
            assert shown.stderr == f"Retention: 90d, every 1d; {told}\n"
            assert answer(*command, "--url", url) in ([], deleted | {"status": "success"})
