"""Commands that touch data: runs, show, import, export, delete, prune, check, backup, restore."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from app.cli import tables
from app.cli.options import (
    checked,
    connect,
    json_option,
    load_settings,
    print_json,
    setting_options,
    target_options,
)
from app.client import Client
from app.errors import AppError, Unavailable
from app.schemas.retention import PruneRequest
from app.schemas.runs import RunQuery
from app.schemas.transfer import ExportRequest, ImportOptions, Per
from app.services.backup import Manifest
from app.services.backup import restore as restore_backup
from app.vocabulary import RunStatus

Item = TypeVar("Item")


@click.command()
@target_options
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first."
)
@click.option(
    "--status",
    type=click.Choice([*(status.value for status in RunStatus), "failed"]),
    help="Only runs with this status.",
)
@click.option("--model", "model_name", help="Only runs of this model.")
@click.option("--hardware", help="Only runs that used this platform.")
@click.option("--test-type", help="Only runs of this test type.")
@click.option("--batch", "batch_id", help="Only runs of this batch.")
@click.option("--tag", multiple=True, metavar="NAME[=VALUE]", help="Only runs with this tag; repeatable.")
@click.option("--since", metavar="TIME", help="Only runs started at this ISO 8601 time or later.")
@click.option("--until", metavar="TIME", help="Only runs started before this ISO 8601 time.")
@json_option
def runs(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    limit: int,
    as_json: bool,
    tag: tuple[str, ...],
    **filters: Any,
) -> None:
    """List runs, newest first."""
    query = checked(RunQuery, tag=list(tag), **filters)
    with connect(url, db_path, database_url) as client:
        found = list(client.runs(query, limit))
        retention = None if as_json else client.retention()
    if as_json:
        print_json(found)
    else:
        tables.print_runs(found)
    tables.tell_retention(retention)


@click.command()
@target_options
@click.argument("run_id")
@json_option
def show(url: str | None, db_path: Path | None, database_url: str | None, run_id: str, as_json: bool) -> None:
    """Show one run with its steps, metrics, tags and artifacts."""
    with connect(url, db_path, database_url) as client:
        run = client.run(run_id)
    if as_json:
        print_json(run)
    else:
        tables.print_run(run)


@click.command("import")
@target_options
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--model", "model_name", help="The model of the runs; else a property or the suite's name.")
@click.option("--hardware", multiple=True, metavar="PLATFORM", help="A platform of the runs; repeatable.")
@click.option("--test-type", help="The test type of the runs.")
@click.option("--tag", multiple=True, metavar="NAME=VALUE", help="A tag for the runs; repeatable.")
@click.option("--batch", "batch_id", help="A batch to put the runs in; made when it does not exist.")
@click.option(
    "--per",
    type=click.Choice([per.value for per in Per]),
    default=Per.FILE.value,
    show_default=True,
    help="What becomes one run.",
)
@json_option
def import_files(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    files: Sequence[Path],
    hardware: tuple[str, ...],
    tag: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Import JUnit XML or export files, each in one transaction; a bad one does not keep back the others."""
    options = checked(ImportOptions, hardware=list(hardware) or None, tag=list(tag), **given)

    def store(client: Client, file: Path) -> dict[str, Any]:
        with progress(f"Importing {file.name}", quiet=as_json) as report:
            answer = client.import_file(file, options, report)
        if not as_json:
            click.echo(f"{file}: {answer.runs} run{'s'[: answer.runs != 1]} from {answer.format}")
            for warning in answer.warnings:
                click.echo(f"  warning: {warning}", err=True)
        return {"file": str(file), **answer.model_dump()}

    with connect(url, db_path, database_url, create=True) as client:
        _each(files, partial(store, client), as_json=as_json, named=True)


@click.command()
@target_options
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--runs/--no-runs", "include_runs", default=True, help="With or without runs.")
@click.option("--metrics/--no-metrics", "include_metrics", default=True, help="With or without metrics.")
@click.option("--batches/--no-batches", "include_batches", default=True, help="With or without batches.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option
def export(
    url: str | None, db_path: Path | None, database_url: str | None, file: Path, as_json: bool, **given: Any
) -> None:
    """Write everything to a JSON file that any server or engine can import."""
    request = ExportRequest(**given)
    with (
        connect(url, db_path, database_url) as client,
        progress(f"Exporting to {file.name}", quiet=as_json) as report,
    ):
        done = client.export(file, request, report)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{file}: {done.runs} runs and {done.batches} batches in {done.bytes} bytes")


@click.command()
@target_options
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--batch", "batch_id", help="Delete this batch; its runs stay.")
@click.option("--with-runs", is_flag=True, help="Delete the runs of the batch too.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    run_ids: tuple[str, ...],
    batch_id: str | None,
    with_runs: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete runs, or a batch, with everything of them."""
    if bool(run_ids) == bool(batch_id):
        raise click.UsageError("Name runs to delete, or a batch with --batch.")
    if with_runs and not batch_id:
        raise click.UsageError("--with-runs goes with --batch.")
    what = f"batch {batch_id}" if batch_id else f"{len(run_ids)} run{'s'[: len(run_ids) != 1]}"
    what += " and its runs" if with_runs else ""
    if not dry_run and not yes:
        click.confirm(f"Delete {what}?", abort=True, err=True)

    def remove(client: Client, key: str) -> dict[str, Any]:
        if batch_id:
            answer = client.delete_batch(key, delete_runs=with_runs, dry_run=dry_run)
        else:
            answer = client.delete_run(key, dry_run=dry_run)
        if not as_json:
            click.echo(answer.message)
        return answer.model_dump(mode="json")

    with connect(url, db_path, database_url) as client:
        _each([batch_id] if batch_id else run_ids, partial(remove, client), as_json=as_json)


@click.command()
@target_options
@click.option(
    "--older-than", required=True, metavar="AGE", help="Age at which runs go: 90d, 12h, 30m or 45s."
)
@click.option(
    "--keep-tag", "keep_tags", multiple=True, metavar="NAME[=VALUE]", help="Runs with it stay; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    keep_tags: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Delete the runs that ended and started so long ago, and the batches that are empty by it."""
    request = checked(PruneRequest, keep_tags=list(keep_tags), **given)
    with connect(url, db_path, database_url) as client:
        answer = client.prune(request)
        retention = None if as_json else client.retention()
    if as_json:
        print_json(answer)
    else:
        click.echo(answer.message)
    tables.tell_retention(retention)


@click.command()
@target_options
@json_option
def check(url: str | None, db_path: Path | None, database_url: str | None, as_json: bool) -> None:
    """Find broken rows; exits with 1 when there are any."""
    with connect(url, db_path, database_url) as client:
        findings = client.check()
    if as_json:
        print_json(findings)
    elif findings:
        tables.print_findings(findings)
    else:
        click.echo("No broken rows.")
    if findings:
        raise SystemExit(1)


@click.command()
@target_options
@setting_options("results_dir")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-results", is_flag=True, help="With the result files of runs; a server takes its own.")
@json_option
def backup(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    results_dir: Path | None,
    file: Path,
    with_results: bool,
    as_json: bool,
) -> None:
    """Write a backup of an embedded database, also while its server runs, to a new zip file."""
    results = load_settings({"results_dir": results_dir}).results_dir if with_results else None
    with connect(url, db_path, database_url) as client:
        _tell_backup(file, client.backup(file, results), as_json=as_json)


@click.command()
@setting_options("db_path", "results_dir")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace the database, and result files, that exist.")
@json_option
def restore(db_path: Path | None, results_dir: Path | None, file: Path, force: bool, as_json: bool) -> None:
    """Put a backup in the place of an embedded database that no server has, after verifying it."""
    settings = load_settings({"db_path": db_path, "results_dir": results_dir})
    manifest, broken = restore_backup(file, settings.sqlalchemy_url, settings.results_dir, force=force)
    for found in broken:
        click.echo(f"Warning: {found.table}: {found.problem} ({found.rows} rows, as backed up)", err=True)
    _tell_backup(file, manifest, as_json=as_json)


def _tell_backup(file: Path, manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        print_json(manifest)
    else:
        runs, batches = manifest.rows["test_runs"], manifest.rows["batch_test_runs"]
        files = len(manifest.files) - 1
        click.echo(
            f"{file}: {runs} run{'s'[: runs != 1]}, {batches} batch{'es' if batches != 1 else ''} and "
            f"{files} result file{'s'[: files != 1]}"
        )


def _each(
    items: Sequence[Item], work: Callable[[Item], dict[str, Any]], *, as_json: bool, named: bool = False
) -> None:
    """Does the work for each item, also after one that was refused; exits with 1 if there was any.

    Whatever ends it, what was done is told. With `named`, an error says whose it is.
    """
    answers, refused = [], 0
    try:
        for item in items:
            try:
                answers.append(work(item))
            except Unavailable:  # it would be for the others, too
                raise
            except AppError as error:
                refused += 1
                click.echo(f"Error: {f'{item}: ' if named else ''}{error.detail}", err=True)
    finally:
        if as_json and answers:
            click.echo(json.dumps(answers, indent=2))
    if refused:
        raise SystemExit(1)


@contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; nothing where a program reads along."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = tables.stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


commands = (runs, show, import_files, export, delete, prune, check, backup, restore)
