"""The command that runs tests: run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

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
from app.schemas.runner import DEFAULT_TIMEOUT, LaunchRequest
from app.schemas.runs import RunDetail
from app.vocabulary import RunStatus

INTERRUPTED = 130


@click.command()
@target_options
@setting_options("suites", "results_dir")
@click.argument("model")
@click.option(
    "--hardware", multiple=True, metavar="PLATFORM", help="A platform to test on; repeatable.  [default: cpu]"
)
@click.option("--type", "test_type", default="basic", show_default=True, help="The test type.")
@click.option(
    "--timeout",
    type=float,
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Seconds the run may take; 0: no limit.",
)
@click.option("--tag", multiple=True, metavar="NAME=VALUE", help="A tag for the run; repeatable.")
@click.option("--batch", "batch_id", help="A batch to put the run in; made when it does not exist.")
@click.option("--save-results/--no-save-results", default=True, help="With or without a result file.")
@json_option
def run(
    url: str | None,
    db_path: Path | None,
    database_url: str | None,
    suites: Path | None,
    results_dir: Path | None,
    model: str,
    hardware: tuple[str, ...],
    timeout: float,
    tag: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Run the tests of a model and show their progress; exits with 0 only when every test passed.

    On a server (--url) its suite is used. Otherwise the tests run here, and --suites names their folder.
    """
    settings = load_settings({"suites": suites, "results_dir": results_dir})
    request = checked(
        LaunchRequest,
        model_name=model,
        hardware=list(hardware) or None,
        timeout=timeout or None,
        tags=dict(_named(text) for text in tag),
        **given,
    )
    if timeout == 0:
        request.timeout = None
    with connect(url, db_path, database_url, create=True) as client:
        run_id = client.launch(request, settings).run_id
        try:
            _show_progress(client, run_id, quiet=as_json)
        except KeyboardInterrupt:
            client.cancel(run_id)
            click.echo(f"Run {run_id} was cancelled.", err=True)
            raise SystemExit(INTERRUPTED) from None
        found = client.run(run_id)
    if as_json:
        print_json(found)
    else:
        tables.print_run(found)
    if not _all_passed(found):
        raise SystemExit(1)


def _named(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise click.UsageError("--tag: must be name=value; the name must not be empty")
    return name, value


def _show_progress(client: Client, run_id: str, *, quiet: bool) -> None:
    """Follows the run: a live bar on a terminal, else a line a step on stderr."""
    console = tables.stderr()
    live = console.is_terminal and not quiet
    columns = (TextColumn("{task.fields[step]}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    step = None
    with Progress(*columns, console=console, transient=True, disable=not live) as progress:
        task = progress.add_task("", total=1.0, step="")
        for status in client.watch(run_id):
            shown = tables.plain(status.current_step or "")
            progress.update(task, completed=status.progress, step=shown)
            if not live and not quiet and shown != step:
                click.echo(f"{status.progress:4.0%}  {shown}", err=True)
            step = shown


def _all_passed(found: RunDetail) -> bool:
    counts = found.results or {}
    stopped_early = found.error is not None
    return found.status == RunStatus.COMPLETED and not stopped_early and not counts.get("tests_failed", 0)


commands = (run,)
