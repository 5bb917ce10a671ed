"""A command under a supervisor, with real processes: how it ends, what is kept, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.runner.process import Ended, Process
from app.runner.supervisor import TAIL, tasks
from tests.runner.conftest import processes

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 20
LIMIT = 100_000
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
READY = "print('ready', flush=True); time.sleep(60)"
FORK = """
import os, signal, sys, time
def child(*, leave=False, silent=True):
    if os.fork():
        return
    if leave:
        os.setsid()
        if os.fork():
            os._exit(0)
    if silent:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(60)
    os._exit(0)
"""


class Starter:
    """Starts Python code in processes that `left` can find again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output.log"
        self.mark = f"mark-{folder}"
        self.env = {"PATH": os.environ["PATH"], "MARK": self.mark}

    def __call__(
        self, code: str, *, timeout: float | None = PATIENCE, grace: float = 0.3, limit: int = LIMIT
    ) -> Process:
        return Process(
            [sys.executable, "-I", "-S", "-c", code],
            cwd=self.folder,
            env=self.env,
            output=self.output,
            timeout=timeout,
            grace=grace,
            max_output=limit,
        )

    def run(self, code: str, *, timeout: float | None = PATIENCE, limit: int = LIMIT) -> Ended:
        return end_of(self(code, timeout=timeout, limit=limit))

    def started(self, code: str, *, timeout: float | None = PATIENCE, grace: float = 0.3) -> Process:
        """A process that has printed something."""
        process = self(code, timeout=timeout, grace=grace)
        until(lambda: self.output.exists() and self.output.stat().st_size > 0)
        return process

    def left(self) -> list[int]:
        return processes(self.mark)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts processes; in the end none of them may be left, not even as a zombie."""
    starter = Starter(tmp_path)
    before = zombies()
    yield starter
    left = starter.left()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert zombies() - before == set()


def zombies() -> set[int]:
    """The ended children of this process that nobody has waited for."""
    return {task.pid for task in tasks() if task.parent == os.getpid() and task.gone}


def end_of(process: Process) -> Ended:
    ended = process.wait(PATIENCE)
    assert ended is not None
    return ended


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 255])
def test_an_exit_code(start: Starter, code: int) -> None:
    ended = start.run(f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({code})")
    assert (ended.code, ended.signal, ended.ended_by, ended.error) == (code, None, None, None)
    assert sorted(ended.tail.split()) == ["err", "out"]
    assert (ended.output_bytes, start.output.stat().st_size) == (8, 8)
    assert 0 < ended.duration < PATIENCE


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_signal(start: Starter, number: int) -> None:
    ended = start.run(f"import os; os.kill(os.getpid(), {number:d})")
    assert (ended.code, ended.signal, ended.ended_by, ended.error) == (None, number, None, None)


def test_the_time_limit(start: Starter) -> None:
    ended = start.run("import time; time.sleep(60)", timeout=0.3)
    assert (ended.code, ended.signal, ended.ended_by) == (None, signal.SIGTERM, "timeout")
    assert 0.3 <= ended.duration < 5


def test_what_ignores_the_signal_is_killed_after_its_grace(start: Starter) -> None:
    process = start.started(STUBBORN + READY, grace=0.5)
    began = time.monotonic()
    process.stop()
    ended = end_of(process)
    assert (ended.code, ended.signal, ended.ended_by) == (None, signal.SIGKILL, "stop")
    assert 0.5 <= time.monotonic() - began < 5


def test_what_heeds_the_signal_has_time_for_its_own_end(start: Starter) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('goodbye'))\n"
    process = start.started(code + READY, grace=PATIENCE)
    process.stop()
    ended = end_of(process)
    assert (ended.code, ended.signal, ended.ended_by) == (1, None, "stop")
    assert ended.tail == "ready\ngoodbye\n"


def test_the_signal_comes_once(start: Starter) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('TERM', flush=True))\n"
    process = start.started(code + READY, grace=0.5)
    process.stop()
    assert end_of(process).tail == "ready\nTERM\n"


def test_a_stopped_process_is_ended(start: Starter) -> None:
    process = start.started(
        "import os, signal\nprint('ready', flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
        grace=PATIENCE,
        timeout=0.5,
    )
    assert end_of(process).ended_by == "timeout"


def test_stop_right_after_the_start(start: Starter) -> None:
    process = start("import time; time.sleep(60)")
    process.stop()
    assert end_of(process).ended_by == "stop"


def test_stop_from_many_threads_and_after_the_end(start: Starter) -> None:
    process = start.started(STUBBORN + READY)
    threads = [threading.Thread(target=process.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert end_of(process).ended_by == "stop"
    process.stop()


def test_the_supervisor_heeds_a_signal(start: Starter) -> None:
    process = start.started("import time\n" + READY)
    os.kill(process.pid, signal.SIGTERM)
    assert end_of(process).ended_by == "stop"


def test_waiting_twice_and_not_long_enough(start: Starter) -> None:
    process = start("import time; time.sleep(0.5)")
    assert process.wait(0.05) is None
    assert end_of(process) is process.wait() is process.wait(0)


def test_two_at_once(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Starter(tmp_path / "other")
    processes = [start("import time; time.sleep(60)"), other("print('done')")]
    assert end_of(processes[1]).code == 0
    assert processes[0].wait(0) is None
    processes[0].stop()
    assert end_of(processes[0]).ended_by == "stop"


@pytest.mark.parametrize("leave", [False, True], ids=["in-the-group", "daemon"])
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "holds-the-pipe"])
def test_children_are_gone_with_the_command(start: Starter, leave: bool, silent: bool) -> None:
    ended = start.run(FORK + f"child(leave={leave}, silent={silent})\nprint('done')")
    assert (ended.code, ended.tail) == (0, "done\n")
    assert ended.duration < 5
    assert start.left() == []


def test_children_are_gone_after_the_time_limit(start: Starter) -> None:
    code = FORK + "child()\nchild(leave=True)\ntime.sleep(60)"
    assert start.run(code, timeout=0.5).ended_by == "timeout"
    assert start.left() == []


def test_orphans_are_no_zombies_while_the_command_runs(start: Starter) -> None:
    orphan = "if not os.fork():\n    if os.fork():\n        os._exit(0)\n    os._exit(0)\n"
    process = start.started(f"import os, time\n{orphan}os.wait()\n{READY}")
    until(lambda: [task.gone for task in tasks() if task.parent == process.pid] == [False])
    process.stop()
    end_of(process)


def test_a_command_that_joins_another_group_is_ended(start: Starter) -> None:
    code = (
        "import os, time\nchild = os.fork()\nif not child:\n    os.setpgid(0, 0); time.sleep(60)\n"
        "time.sleep(0.2); os.setpgid(0, child)\n"
    )
    process = start.started(code + READY)
    process.stop()
    assert end_of(process).ended_by == "stop"


def test_a_million_lines(start: Starter) -> None:
    ended = start.run("for number in range(1_000_000): print('line', number)")
    text = start.output.read_text()
    left_out = ended.output_bytes - LIMIT
    assert ended.output_bytes == sum(len(f"line {number}\n") for number in range(1_000_000))
    assert text.startswith("line 0\nline 1\n")
    assert text.endswith("line 999998\nline 999999\n")
    assert f"\n… {left_out} bytes left out …\n" in text
    assert len(text) < LIMIT + 100
    assert text.endswith(ended.tail)
    assert len(ended.tail) == TAIL


def test_a_line_without_an_end(start: Starter) -> None:
    ended = start.run("import os\nwhile True: os.write(1, b'x' * 65536)", timeout=0.5)
    assert ended.ended_by == "timeout"
    assert ended.output_bytes > LIMIT
    assert start.output.stat().st_size < LIMIT + 100
    assert ended.tail == "x" * TAIL


def test_output_that_fits_is_kept_whole(start: Starter) -> None:
    ended = start.run("print('ab' * 50, end='')", limit=100)
    assert start.output.read_text() == ended.tail == "ab" * 50


def test_output_that_is_no_text(start: Starter) -> None:
    ended = start.run("import os; os.write(1, bytes(range(256)) * 64)")
    assert start.output.read_bytes() == bytes(range(256)) * 64
    assert len(ended.tail) <= TAIL
    ended = start.run("print('ü' * 5000, end='x')")
    assert ended.tail == "ü" * (TAIL // 2 - 1) + "x"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_does_not_hold_the_command_up(start: Starter) -> None:
    start.output = Path("/dev/full")
    ended = start.run("print('x' * 1_000_000); print('done')")
    assert (ended.code, ended.output_bytes) == (0, 1_000_006)
    assert "\ndone\n\n… the output could not be kept: No space left on device …\n" in ended.tail


def test_an_output_file_in_no_folder(start: Starter) -> None:
    start.output = start.folder / "absent" / "output.log"
    ended = start.run("print('done')")
    assert ended.code == 0
    assert "could not be kept: No such file or directory" in ended.tail


@pytest.mark.parametrize("missing", ["command", "folder"])
def test_what_cannot_be_started(start: Starter, missing: str) -> None:
    process = Process(
        ["no-such-command"] if missing == "command" else [sys.executable, "-V"],
        cwd=start.folder if missing == "command" else start.folder / "no-such-folder",
        env=start.env,
        output=start.output,
        timeout=PATIENCE,
        grace=0.3,
        max_output=LIMIT,
    )
    ended = end_of(process)
    assert (ended.code, ended.signal, ended.ended_by, ended.output_bytes) == (None, None, None, 0)
    assert ended.error is not None
    assert f"no-such-{missing}" in ended.error


def test_the_environment_is_what_was_given(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "leaks")
    start.env |= {"LC_ALL": "C.UTF-8", "ODD": "ü \n=\udcff"}
    ended = start.run("import os; print(sorted(os.environb.items()))")
    expected = sorted((os.fsencode(name), os.fsencode(value)) for name, value in start.env.items())
    assert ended.tail == f"{expected}\n"


def test_the_command_has_its_own_group_no_input_and_no_open_files(start: Starter) -> None:
    ended = start.run(
        "import os, sys\nprint(os.getpgid(0) == os.getpid(), repr(sys.stdin.read()), "
        "[n for n in range(3, 200) if os.path.exists(f'/proc/self/fd/{n}')])"
    )
    assert ended.tail == "True '' []\n"


def test_everything_ends_with_the_server(start: Starter) -> None:
    server = f"""
import sys, time
from pathlib import Path
from app.runner.process import Process
code = {FORK + "child(); child(leave=True); print('ready', flush=True); time.sleep(60)"!r}
process = Process([sys.executable, '-I', '-S', '-c', code], cwd=Path({str(start.folder)!r}),
                  env={start.env!r}, output=Path({str(start.output)!r}),
                  timeout=None, grace=0.3, max_output=1000)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", server], cwd=ROOT) as process:
        until(lambda: start.output.exists() and start.output.stat().st_size > 0)
        assert len(start.left()) >= 3
        [supervisor] = [task.pid for task in tasks() if task.parent == process.pid]
        process.kill()
    until(lambda: start.left() == [], 2)
    until(lambda: all(task.gone for task in tasks() if task.pid == supervisor), 2)


def test_nothing_of_the_group_survives_the_supervisor(start: Starter) -> None:
    process = start.started(FORK + "child(); child(silent=False); " + READY)
    os.kill(process.pid, signal.SIGKILL)
    ended = end_of(process)
    assert start.left() == []
    assert (ended.code, ended.signal, ended.ended_by) == (None, signal.SIGKILL, None)
    assert ended.error is not None
    assert "supervisor was killed" in ended.error
    assert end_of(process) is ended


def test_a_busy_server_does_not_delay_the_time_limit(start: Starter) -> None:
    code = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.01)"
    process = start.started(code, timeout=0.5)
    began = time.time()
    while time.time() - began < 1.5:
        sum(range(10_000))
    assert process.wait(0.5) is not None
    assert float(start.output.read_text().split()[-1]) - began < 1
