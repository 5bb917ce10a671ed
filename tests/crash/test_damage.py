"""Damage to a killed server's file or log: it is refused or reported, or nothing is missing."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.crash import damage
from tests.server import PATIENCE, run, serving

MUTATIONS = int(os.environ.get("DAMAGE", "28"))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.crash.damage"])


def killed(folder: Path) -> None:
    folder.mkdir()
    process = CONTEXT.Process(target=damage.make, args=[folder])
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL


def look(folder: Path) -> tuple[str, Any]:
    """What a process tells of the database; it has a few seconds for that."""
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=damage.look, args=[folder, there])
    process.start()
    there.close()
    try:
        assert here.poll(PATIENCE), "it hangs"
        told: tuple[str, Any] = here.recv()
    except EOFError:
        told = ("fault", "it crashed")
    finally:
        process.join(PATIENCE)
    return told


def test_damage_is_never_silent(tmp_path: Path) -> None:
    killed(tmp_path / "killed")
    killed(tmp_path / "other")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "killed", whole)
    kind, expected = look(whole)
    assert kind == "opened"
    assert len(expected[1]["test_runs"]) == 15 + 5 * damage.COMMITS
    outcomes: Counter[str] = Counter()
    wrong = []
    for number in range(MUTATIONS):
        chance = random.Random(number)
        name = list(damage.MUTATIONS)[number % len(damage.MUTATIONS)]
        folder = tmp_path / f"mutation-{number}"
        shutil.copytree(tmp_path / "killed", folder)
        for file in damage.FILES:
            shutil.copy(tmp_path / "other" / file, folder / f"other-{file}")
        damage.MUTATIONS[name](folder, chance)
        log = folder / damage.FILES[1]
        damaged = log.read_bytes() if log.exists() else None
        kind, told = look(folder)
        if kind == "opened":
            kind = "complete" if told == expected else "silent"
        outcomes[kind] += 1
        if kind in ("fault", "silent"):
            wrong.append((number, name, kind, told if kind == "fault" else None))
        if kind == "refused" and damaged is not None and name.startswith("log"):
            (copy,) = folder.glob(f"{log.name}.damaged-*")
            assert copy.read_bytes() == damaged == log.read_bytes()
        shutil.rmtree(folder)
    print(dict(outcomes))  # noqa: T201
    assert wrong == []
