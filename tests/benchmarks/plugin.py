"""What recording costs a session: `python -m tests.benchmarks.plugin`.

Runs 2000 trivial tests again and again, by turns without the plugin, with it loaded but off, recording
to a server of the product on an embedded file, and recording while there is no server. Prints wall and CPU
seconds of the pytest process (median and range) and their ratio to the first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.server import free_port, serving

TESTS = """
import pytest
@pytest.mark.parametrize("number", range({count}))
def test_nothing(number): pass
"""
ALONE = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "anyio", "xdist", "rerunfailures")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tests", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        folder = Path(name, "project")
        folder.mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(TESTS.format(count=options.tests))
        variants = {
            "without the plugin": ["-pno:testdb_pytest"],
            "loaded, off": [],
            "recording": ["--testdb", server.url, f"--testdb-spool={folder}/sent"],
            # A folder of its own: the sessions with a server would send what is left there.
            "no server": ["--testdb", f"http://127.0.0.1:{free_port()}", f"--testdb-spool={folder}/kept"],
        }
        taken: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
        for _ in range(options.rounds):
            for variant, arguments in variants.items():
                taken[variant].append(measured(folder, arguments))
    base = [median(pair[kind] for pair in taken["without the plugin"]) for kind in (0, 1)]
    print(f"{'session':20} {'wall':>7} {'ratio':>6}  {'range':15} {'CPU':>7} {'ratio':>6}")
    for variant, pairs in taken.items():
        wall, cpu = (median(pair[kind] for pair in pairs) for kind in (0, 1))
        low, high = (choose(pair[0] for pair in pairs) for choose in (min, max))
        print(
            f"{variant:20} {wall:6.3f}s {wall / base[0]:6.3f}  {low:.3f}-{high:.3f}s   "
            f"{cpu:6.3f}s {cpu / base[1]:6.3f}"
        )


def measured(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a session; of its sender, a process of its own, only the wait counts."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *ALONE, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("TESTDB")},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
