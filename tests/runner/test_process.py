"""Processes at their edges: odd commands and limits, ends that meet each other, owners that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.runner.process import Process
from app.runner.supervisor import tasks
from tests.runner.test_supervisor import (
    FORK,
    LIMIT,
    PATIENCE,
    READY,
    ROOT,
    STUBBORN,
    Starter,
    end_of,
    start,
    until,
)

__all__ = ["start"]

MARKED = "\n… {} bytes left out …\n"


def command(start: Starter, *argv: str, timeout: float | None = PATIENCE) -> Process:
    return Process(
        argv,
        cwd=start.folder,
        env=start.env,
        output=start.output,
        timeout=timeout,
        grace=0.3,
        max_output=LIMIT,
    )


def ticks(pid: int) -> int:
    """The processor time that a process has used."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(told[11]) + int(told[12])


# --- commands


def test_arguments_come_as_they_are(start: Starter) -> None:
    given = ["", "two words", "$HOME; exit 3", "line\nbreak", "ü", "\udcff", "*", "-x", "y" * 50_000]
    code = "import os, sys; print([os.fsencode(each) for each in sys.argv[1:]])"
    ended = end_of(command(start, sys.executable, "-I", "-S", "-c", code, *given))
    assert ended.code == 0
    assert start.output.read_text() == f"{[os.fsencode(each) for each in given]}\n"


def test_the_command_is_found_on_the_path_it_was_given_and_runs_in_its_folder(start: Starter) -> None:
    script = start.folder / "bin" / "say-where"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\npwd -P\n")
    script.chmod(0o755)
    start.env["PATH"] = f"{script.parent}:{start.env['PATH']}"
    assert end_of(command(start, "say-where")).tail == f"{start.folder.resolve()}\n"


def test_no_environment_is_none(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "leaks")
    start.env = {}
    ended = end_of(command(start, "/usr/bin/env"))
    assert (ended.code, ended.tail) == (0, "")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["./a-folder"], "Permission denied: './a-folder'"),
        (["./a-text"], "Permission denied: './a-text'"),
        (["nul\0"], "null byte"),
        (["/bin/echo", "x" * (1 << 17)], "Argument list too long"),
    ],
    ids=["folder", "not executable", "NUL", "too long"],
)
def test_why_a_command_could_not_be_started(start: Starter, argv: list[str], reason: str) -> None:
    (start.folder / "a-folder").mkdir()
    (start.folder / "a-text").write_text("#!/bin/sh\n")
    ended = end_of(command(start, *argv))
    assert (ended.code, ended.signal, ended.ended_by, ended.tail) == (None, None, None, "")
    assert ended.error is not None
    assert reason in ended.error


def test_signals_are_as_in_any_new_process(start: Starter) -> None:
    code = (
        "import signal\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "print([n for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)"
        " if signal.getsignal(n) is not signal.SIG_DFL])"
    )
    assert start.run(code).tail == "set()\n[]\n"


# --- output


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_what_a_limit_leaves_of_the_output(start: Starter, limit: int) -> None:
    printed = "".join(f"{number:02}" for number in range(50))
    ended = start.run(f"print({printed!r}, end='')", limit=limit)
    head, last = printed[: limit // 2], printed[len(printed) - (limit - limit // 2) :]
    assert start.output.read_text() == head + MARKED.format(100 - limit) + last
    assert (ended.tail, ended.output_bytes) == (printed, 100)


def test_the_first_half_can_be_read_while_the_command_runs(start: Starter) -> None:
    process = start.started("import time; print('x' * 100)\n" + READY)
    until(lambda: start.output.read_text() == "x" * 100 + "\nready\n")
    assert process.wait(0.1) is None
    process.stop()
    assert end_of(process).ended_by == "stop"


def test_an_earlier_output_is_replaced(start: Starter) -> None:
    start.output.write_text("of another run, and longer")
    start.run("print('new')")
    assert start.output.read_text() == "new\n"


def test_an_output_that_is_a_folder_does_not_stop_the_command(start: Starter) -> None:
    start.output.mkdir()
    ended = start.run("open('made', 'w').close(); print('done')")
    assert (ended.code, ended.output_bytes) == (0, 5)
    assert ended.tail == "done\n\n… the output could not be kept: Is a directory …\n"
    assert (start.folder / "made").exists()


def test_a_command_that_closes_its_output_runs_on_and_costs_nothing(start: Starter) -> None:
    code = "import os, time\nprint('ready', flush=True); os.close(1); os.close(2)\n"
    process = start.started(code + "time.sleep(0.7); os._exit(3)")
    time.sleep(0.1)
    before = ticks(process.pid)
    assert process.wait(0.4) is None
    assert ticks(process.pid) - before <= 0.1 * os.sysconf("SC_CLK_TCK")
    assert end_of(process).code == 3


def test_waiting_for_a_stubborn_end_costs_nothing(start: Starter) -> None:
    process = start.started(STUBBORN + READY, grace=0.7)
    process.stop()
    time.sleep(0.1)
    before = ticks(process.pid)
    assert process.wait(0.3) is None
    assert ticks(process.pid) - before <= 0.1 * os.sysconf("SC_CLK_TCK")
    assert end_of(process).signal == signal.SIGKILL


# --- ends


def test_a_time_limit_of_nothing(start: Starter) -> None:
    ended = start.run("import time; time.sleep(60)", timeout=0)
    assert (ended.code, ended.signal, ended.ended_by) == (None, signal.SIGTERM, "timeout")


def test_no_grace_at_all(start: Starter) -> None:
    process = start.started(STUBBORN + READY, grace=0)
    process.stop()
    ended = end_of(process)
    assert (ended.signal, ended.ended_by) == (signal.SIGKILL, "stop")


def test_the_first_reason_counts_and_grace_is_not_granted_twice(start: Starter) -> None:
    process = start.started(STUBBORN + READY, timeout=0.3, grace=0.6)
    assert process.wait(0.6) is None
    process.stop()
    ended = end_of(process)
    assert (ended.signal, ended.ended_by) == (signal.SIGKILL, "timeout")
    assert ended.duration < 3


def test_stopped_children_are_ended_at_the_time_limit(start: Starter) -> None:
    stopped = "child_id = os.fork()\nif not child_id: {}os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)\n"
    code = "import os, signal, time\n" + stopped.format("") + stopped.format("os.setsid(); ")
    ended = start.run(code + READY, timeout=0.5)
    assert ended.ended_by == "timeout"
    assert ended.duration < 5
    assert start.left() == []


def test_a_daemon_that_holds_the_pipe_does_not_delay_the_time_limit(start: Starter) -> None:
    code = FORK + "child(leave=True, silent=False)\n" + STUBBORN + READY
    ended = start.run(code, timeout=0.5)
    assert (ended.signal, ended.ended_by, ended.tail) == (signal.SIGKILL, "timeout", "ready\n")
    assert ended.duration < 5
    assert start.left() == []


def test_a_crowd_of_children_is_gone(start: Starter) -> None:
    ended = start.run(FORK + "for n in range(30): child(leave=n % 2 == 0, silent=n % 3 == 0)\n")
    assert ended.code == 0
    assert start.left() == []


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.05])
def test_a_stop_that_meets_the_end(start: Starter, pause: float) -> None:
    process = start("pass")
    time.sleep(pause)
    process.stop()
    process.stop()
    ended = end_of(process)
    assert (ended.code, ended.signal, ended.ended_by) in [
        (0, None, None),
        (0, None, "stop"),
        (None, signal.SIGTERM, "stop"),
    ]
    assert ended.error is None


def test_many_wait_for_the_same_end(start: Starter) -> None:
    process = start.started("import time\n" + READY)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(process.wait, PATIENCE) for _ in range(8)]
        process.stop()
        ends = [each.result(PATIENCE) for each in waiting]
    assert ends[0] is not None
    assert all(end is ends[0] for end in ends)


def test_processes_side_by_side_leave_no_open_files(start: Starter) -> None:
    def run(number: int) -> int | None:
        folder = start.folder / str(number)
        folder.mkdir()
        return Starter(folder).run(f"raise SystemExit({number})").code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(3))) == [0, 1, 2]
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing of pathlib would open one more
        assert list(pool.map(run, range(3, 11))) == list(range(3, 11))
        assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


def test_a_stop_after_the_supervisor_was_killed(start: Starter) -> None:
    process = start.started(STUBBORN + READY)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: any(task.pid == process.pid and task.gone for task in tasks()))
    process.stop()
    process.stop()
    ended = end_of(process)
    assert (ended.error, ended.tail) == ("its supervisor was killed", "")
    assert start.left() == []


# --- owners


@pytest.mark.parametrize("way", ["killed", "exits", "raises"])
def test_a_tree_that_does_not_listen_is_gone_with_its_owner(start: Starter, way: str) -> None:
    tree = FORK + "child(); child(leave=True); child(leave=True, silent=False)\n" + STUBBORN
    tree += "print('ready', flush=True)\nwhile True: print('x' * 1000, flush=True)"
    last = {"killed": "time.sleep(60)", "exits": "os._exit(0)", "raises": "raise SystemExit(1)"}[way]
    owner = f"""
import os, sys, time
from pathlib import Path
from app.runner.process import Process
output = Path({str(start.output)!r})
process = Process([sys.executable, '-I', '-S', '-c', {tree!r}], cwd=output.parent, env={start.env!r},
                  output=output, timeout=None, grace=0.2, max_output=1000)
while not output.exists() or b'ready' not in output.read_bytes():
    time.sleep(0.01)
print(process.pid, flush=True)
{last}
"""
    with subprocess.Popen([sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        supervisor = int(process.stdout.readline())
        if way == "killed":
            assert len(start.left()) >= 4
            process.kill()
        process.wait(PATIENCE)
        until(lambda: start.left() == [], 2)
        until(lambda: all(task.gone for task in tasks() if task.pid == supervisor), 2)


def test_an_owner_that_dies_before_it_has_given_its_orders(start: Starter) -> None:
    supervisor = ROOT / "app" / "runner" / "supervisor.py"
    for said in (b"", b'{"argv": ["touch", "made"], "cwd": '):
        ended = subprocess.run(
            [sys.executable, "-I", "-S", supervisor],
            input=said,
            capture_output=True,
            cwd=start.folder,
            timeout=PATIENCE,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert list(start.folder.iterdir()) == []
