"""import and export: straight on a database and through a server, with the same results."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import IO, Any

import pytest

import app.client
from app.services.export import write_export
from tests.cli.helpers import (
    AWKWARD,
    BATCHES,
    RUNS,
    Twins,
    answer,
    ids,
    invoke,
    loads,
    names,
    options_of,
    refused,
    same,
    same_refusal,
    without,
)
from tests.cli.strangers import exporting, http, stranger
from tests.marks import ON_DUCKDB
from tests.server import PATIENCE, TESTDB, environment

JUNIT = Path(__file__).parents[1] / "data" / "junit"
# --- import


IMPORTS = [
    ["pytest.xml"],
    ["nested.xml", "--per", "suite", "--model", "größe", "--hardware", "cpu", "--hardware", "cuda"],
    [
        "go-junit-report.xml",
        "--tag",
        "a=b=c",
        "--tag",
        "branch=main",
        "--test-type",
        "nightly",
        "--batch",
        "b:1",
    ],
    ["gradle.xml", "jest.xml", "surefire.xml", "googletest.xml"],
]


@pytest.mark.parametrize("args", IMPORTS, ids=lambda args: args[0])
def test_imports_store_the_same_runs(twins: Twins, args: list[str]) -> None:
    files = [str(JUNIT / arg) if arg.endswith(".xml") else arg for arg in args]
    before = set(names(answer("runs", "--limit", "1000", *twins.remote)))
    stored = same(twins.ways, "import", *files)
    assert [item["file"] for item in stored] == [file for file in files if file.endswith(".xml")]
    assert all(item["format"] == "junit" and item["runs"] >= 1 for item in stored)
    found = [set(names(answer("runs", *way, "--limit", "1000"))) for way in twins.ways]
    assert found[0] == found[1]
    assert len(found[0] - before) == sum(item["runs"] for item in stored)
    assert answer("import", *files, *twins.remote) == stored
    assert set(names(answer("runs", "--limit", "1000", *twins.remote))) == found[0], "each is stored once"
    for run_id in sorted(found[0] - before)[:4]:
        shown = [answer("show", run_id, *way) for way in twins.ways]
        # A file without times has those of its import.
        first, second = (
            without(item, "created_at", "started_at", "completed_at", "timestamp") for item in shown
        )
        assert first == second


def test_files_may_be_compressed(twins: Twins, given: Callable[..., str]) -> None:
    packed, plain = given("packed.xml.gz", "gz", packed=True), given("plain.xml", "gz")
    assert [item["runs"] for item in same(twins.ways, "import", packed, plain)] == [1, 1]
    assert len(same(twins.ways, "runs", "--model", "gz", "--limit", "10")) == 1, "the content is the same"


def test_an_import_tells_what_it_stored_and_warned_of(
    twins: Twins, given: Callable[..., str], tmp_path: Path
) -> None:
    export = tmp_path / "all.json"
    file = given("told.xml", "told")
    for way in twins.ways:
        result = invoke("import", file, *way)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{file}: 1 run from junit\n", "")
    answer("export", str(export), "--no-runs", "--no-batches", *twins.remote)
    for way in twins.ways:
        result = invoke("import", str(export), "--model", "m", *way)
        assert result.exit_code == 0
        assert result.stdout == f"{export}: 0 runs from export\n"
        assert result.stderr.startswith("  warning: model_name was not used")


BROKEN = {
    "text": b"no file of any known kind",
    "empty": b"",
    "xml": b"<testsuite><testcase",
    "xml.gz": gzip.compress(b"<testsuite><testcase"),
    "json": b'{"format": "test-suite-db", "version": 1, "runs": [{"run_id": "half"',
    "version": b'{"format": "test-suite-db", "version": 99, "runs": []}',
    "one run": b'{"format": "test-suite-db", "version": 1, "runs": [{"model_name": "m"}, {"model": "m"}]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_and_nothing_of_it_is_stored(
    twins: Twins, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "broken"
    file.write_bytes(content)
    before = answer("runs", "--limit", "1000", *twins.remote)
    assert same_refusal(twins.ways, "import", str(file)).startswith(f"{file}: ")
    assert answer("runs", "--limit", "1000", *twins.remote) == before


@pytest.mark.parametrize("damage", ["cut", "changed", "header"])
def test_a_broken_gzip_file_is_named(twins: Twins, tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(
        b"<testsuite name='x'><testcase name='%s'/></testsuite>" % os.urandom(50_000).hex().encode()
    )
    broken = {
        "cut": whole[:-1000],
        "changed": whole[:5000] + bytes(byte ^ 255 for byte in whole[5000:6000]) + whole[6000:],
        "header": whole[:2] + b"\xff\xff" + whole[4:],
    }[damage]
    file = tmp_path / "broken.xml.gz"
    file.write_bytes(broken)
    for way in twins.ways:
        said = refused("import", str(file), *way)
        assert said.startswith(f"{file}: ")
        assert "gzip" in said


def test_of_several_files_the_good_ones_are_stored_and_the_bad_one_is_named(
    twins: Twins, given: Callable[..., str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.xml"
    bad.write_text("nonsense")
    good = [given("first.xml", "several"), given("last.xml.gz", "several too", packed=True)]
    for way in twins.ways:
        result = invoke("import", good[0], str(bad), good[1], *way)
        assert result.exit_code == 1
        assert result.stdout == "".join(f"{file}: 1 run from junit\n" for file in good)
        assert result.stderr.startswith(f"Error: {bad}: ")
        assert len(result.stderr.splitlines()) == 1

        result = invoke("import", good[0], str(bad), good[1], "--json", *way)
        assert result.exit_code == 1
        assert [item["file"] for item in loads(result.stdout)] == good
        assert result.stderr.startswith(f"Error: {bad}: ")

        for model in ("several", "several too"):
            assert len(answer("runs", "--model", model, *way)) == 1


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["missing.xml"], "missing.xml"),
        (["."], "."),
        ([], "FILES"),
        (["{file}", "--hardware", ""], "--hardware"),
        (["{file}", "--batch", "a b"], "--batch"),
        (["{file}", "--per", "test"], "--per"),
    ],
)
def test_wrong_usage_of_import(tmp_path: Path, args: list[str], named: str) -> None:
    filled = [arg.format(file=JUNIT / "pytest.xml") for arg in args]
    assert named in refused("import", *filled, "--db-path", str(tmp_path / "new.duckdb"), code=2)
    assert list(tmp_path.iterdir()) == []


def test_an_import_makes_the_database(tmp_path: Path, given: Callable[..., str]) -> None:
    file = tmp_path / "new folder" / "runs.duckdb"
    answer("import", given("a.xml"), "--db-path", str(file))
    assert len(answer("runs", "--db-path", str(file))) == 1
    assert [path.name for path in file.parent.iterdir()] == ["runs.duckdb"]


# --- export


def exported(history: Twins, folder: Path, *options: str) -> tuple[Any, Any]:
    """The file, which must be the same both ways, and what was said of it."""
    files, said = [], []
    for number, way in enumerate(history.ways):
        (folder / f"{number}").mkdir(exist_ok=True)
        file = folder / f"{number}" / "all.json"
        said.append(answer("export", str(file), *options, *way))
        files.append(loads(file.read_text()))
        assert [path.name for path in file.parent.iterdir()] == ["all.json"]
        assert said[-1]["bytes"] == file.stat().st_size
    assert without(files[0], "exported_at") == without(files[1], "exported_at")
    assert without(said[0], "export_id", "bytes") == without(said[1], "export_id", "bytes")
    return files[0], said[0]


def test_an_export_holds_everything_and_can_be_imported(history: Twins, tmp_path: Path) -> None:
    whole, said = exported(history, tmp_path)
    assert names(whole["runs"]) == ids()
    assert sum(len(run["metric_series"]) for run in whole["runs"]) == 6 * len(AWKWARD)
    assert sorted(batch["batch_id"] for batch in whole["batches"]) == sorted(BATCHES)
    assert (said["status"], said["filename"], said["runs"], said["batches"]) == (
        "completed",
        "all.json",
        len(RUNS),
        2,
    )
    assert said["error"] is None

    database = ("--db-path", str(tmp_path / "copy.duckdb"))
    assert answer("import", str(tmp_path / "0" / "all.json"), *database)[0]["runs"] == len(RUNS)
    answer("export", str(tmp_path / "again.json"), *database)
    again = loads((tmp_path / "again.json").read_text())
    assert without(again, "exported_at") == without(whole, "exported_at")


def test_an_export_without_runs(history: Twins, tmp_path: Path) -> None:
    found, said = exported(history, tmp_path, "--no-runs")
    assert found["runs"] == []
    assert (said["runs"], said["batches"]) == (0, len(found["batches"])) == (0, 2)


def test_an_export_without_metrics_and_batches(history: Twins, tmp_path: Path) -> None:
    found, said = exported(history, tmp_path, "--no-metrics", "--no-batches")
    assert found["batches"] == []
    assert (said["runs"], said["batches"]) == (len(found["runs"]), 0) == (len(RUNS), 0)
    assert all(run["metrics"] == {} and run["metric_series"] == [] for run in found["runs"])
    assert all(run["batch_ids"] == [] for run in found["runs"])


def test_an_export_says_what_it_wrote(twins: Twins, tmp_path: Path) -> None:
    for number, way in enumerate(twins.ways):
        file = tmp_path / f"{number}.json"
        result = invoke("export", str(file), "--no-runs", "--no-batches", *way)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{file}: 0 runs and 0 batches in {file.stat().st_size} bytes\n"


def test_one_is_no_plural(given: Callable[..., str], tmp_path: Path) -> None:
    way = ("--db-path", str(tmp_path / "one.duckdb"))
    answer("import", given("a.xml"), "--batch", "b", *way)
    for command, said in (
        ("export", ": 1 run and 1 batch in "),
        ("backup", ": 1 run, 1 batch and 0 result files\n"),
    ):
        assert said in invoke(command, str(tmp_path / command), *way).stdout


def test_an_export_does_not_overwrite_unless_asked(twins: Twins, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    for way in twins.ways:
        file.write_text("precious")
        assert "'mine.json' exists already" in refused("export", str(file), *way)
        assert file.read_text() == "precious"
        answer("export", str(file), "--overwrite", *way)
        assert loads(file.read_text())["format"] == "test-suite-db"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_an_export_to_a_folder_that_is_not_there_is_an_error(twins: Twins, tmp_path: Path) -> None:
    for way in twins.ways:
        assert "x cannot be written: No such file or directory" in refused(
            "export", str(tmp_path / "none" / "x"), *way
        )
        assert "is a directory" in refused("export", str(tmp_path), *way, code=2)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        write_export(*args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(app.client, "write_export", fail)
    (tmp_path / "out").mkdir()
    said = refused("export", str(tmp_path / "out" / "all.json"), *options_of(url))
    assert "No space left on device" in said
    assert list((tmp_path / "out").iterdir()) == []


SLOW_EXPORT = """
    import sys, time
    import app.client
    from app.cli import main

    def slowly(session, stream, **options):
        stream.write(b"half")
        stream.flush()
        print("exporting", flush=True)
        time.sleep(60)

    app.client.write_export = slowly
    main(sys.argv[1:])
"""


@ON_DUCKDB
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(url: str, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SLOW_EXPORT))
    _interrupt(
        [sys.executable, str(script), "export", "all.json", *options_of(url)],
        tmp_path,
        lambda out: out.readline(),
        number,
    )


def test_an_interrupted_export_of_a_server_leaves_nothing(tmp_path: Path) -> None:
    respond = exporting("started")
    asked = Event()

    def announce(path: str) -> bytes:
        if path.endswith("/exports/x"):
            asked.set()
        return respond(path)

    with stranger(announce) as url:
        _interrupt([*TESTDB, "export", "all.json", "--url", url], tmp_path, lambda _: asked.wait(PATIENCE))


def _interrupt(
    command: list[str],
    folder: Path,
    wait: Callable[[IO[bytes]], object],
    number: signal.Signals = signal.SIGINT,
) -> None:
    """Starts an export, waits until it is under way, and presses Ctrl-C, or sends another signal."""
    out = folder / "out"
    out.mkdir()
    with subprocess.Popen(
        command,
        cwd=out,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # As in the foreground of a shell; from tests in the background it would inherit to ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        wait(process.stdout)
        assert [path.suffix for path in out.iterdir()] == [".part"]
        process.send_signal(number)
        _output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"Aborted!" in errors
    assert list(out.iterdir()) == []


def test_an_export_that_breaks_off_on_its_way_leaves_nothing(tmp_path: Path) -> None:
    half = http("{").replace(b"Content-Length: 1", b"Content-Length: 999")
    with stranger(exporting("completed", file=half)) as url:
        assert "does not answer" in refused("export", str(tmp_path / "all.json"), "--url", url)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_on_the_server_says_why(tmp_path: Path) -> None:
    with stranger(exporting("error", "no space left")) as url:
        said = refused("export", str(tmp_path / "all.json"), "--url", url)
    assert said == "The export failed on the server: no space left"
    assert list(tmp_path.iterdir()) == []
