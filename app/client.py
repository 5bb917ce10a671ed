"""The two ways commands reach the data: through a running server, or straight on a database.

`Remote` and `Local` have the same methods and answer the same things.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from app.config import Settings
from app.db import utcnow
from app.db.leases import Leases
from app.db.opening import open_database
from app.errors import AppError, Conflict, NotFound, Unavailable
from app.runner.folder import remove_results
from app.runner.runner import Runner
from app.runner.suites import BUILTIN, load_suite
from app.schemas.check import Finding
from app.schemas.common import is_id
from app.schemas.query import SqlAnswer, SqlQuery
from app.schemas.retention import PruneRequest, RetentionState
from app.schemas.runner import Cancelled, Launched, LaunchRequest, LiveStatus
from app.schemas.runs import Deleted, RunDetail, RunQuery, RunSummary
from app.schemas.transfer import ExportRequest, ExportStarted, ExportState, Imported, ImportOptions
from app.services import check, deletion, importing, runs
from app.services.backup import Manifest, read_manifest, write_backup
from app.services.export import Progress, write_export
from app.services.files import atomic_file, plain_stream
from app.services.live import snapshot
from app.services.pruning import prune
from app.services.query import Queries
from app.vocabulary import TERMINAL

API = "/api/test/db"
TESTS = "/api/test"
PAGE = 1000
RECONNECTS = 10
"""How often in a row a lost stream is taken up again."""
WATCHED = 60  # seconds in which a watched server must say something, be it that it lives
POLL = 0.2  # seconds between two looks at an export

Answer = TypeVar("Answer")
Report = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


class Local:
    """Works on a database that nothing else holds, and on the results directory, if it is given.

    `private` files are in no backup.
    """

    def __init__(
        self,
        url: str,
        results: Path | None = None,
        *,
        create: bool = False,
        private: Collection[Path] = (),
    ) -> None:
        self._private = private
        self._database = open_database(url, create=create)
        self._leases = Leases(self._database)
        if results is not None:
            self._database.on_delete(partial(remove_results, results, self._leases))
        self._runner: Runner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()
        self._leases.close()
        self._database.close()

    def runs(self, query: RunQuery, limit: int) -> Iterator[RunSummary]:
        """The newest runs that pass the filters."""
        while limit > 0:
            page = self._database.read(runs.list_runs, query.model_copy(update={"limit": min(limit, PAGE)}))
            yield from page.items
            limit -= len(page.items)
            if page.next_cursor is None:
                return
            query = query.model_copy(update={"cursor": page.next_cursor})

    def run(self, run_id: str) -> RunDetail:
        return self._database.read(runs.get_run, run_id)

    def import_file(self, path: Path, options: ImportOptions, report: Report) -> Imported:
        size = path.stat().st_size

        def at(position: int) -> None:
            report(min(position, size), size)

        with plain_stream(path) as stream:
            return self._database.write(importing.import_file, stream, options, at)

    def export(self, path: Path, request: ExportRequest, report: Report) -> ExportState:
        def at(progress: Progress) -> None:
            report(progress.runs + progress.batches, progress.total)

        with atomic_file(path, overwrite=request.overwrite) as stream:
            done = self._database.read(
                write_export,
                stream,
                include_runs=request.include_runs,
                include_metrics=request.include_metrics,
                include_batches=request.include_batches,
                report=at,
            )
        return ExportState(
            export_id="local",
            status="completed",
            filename=path.name,
            runs=done.runs,
            batches=done.batches,
            bytes=done.bytes,
            error=None,
        )

    def backup(self, path: Path, results: Path | None) -> Manifest:
        """Writes a backup to a new file, with the result files if their directory is given."""
        with atomic_file(path, overwrite=False) as stream:
            return write_backup(self._database, stream, path.parent, results, self._private)

    def launch(self, request: LaunchRequest, settings: Settings) -> Launched:
        """Queues a run of the suite; `watch` executes it."""
        self._runner = Runner(
            self._database, load_suite(settings.suites or BUILTIN), settings.results_dir, max_parallel=1
        )
        return self._runner.submit(request)

    def watch(self, run_id: str) -> Iterator[LiveStatus]:
        """Executes the run, and tells its status at each change."""
        assert self._runner is not None, "it was launched"
        changed = threading.Event()
        self._database.on_change(lambda _runs: changed.set())
        execution = threading.Thread(target=self._runner.execute, args=[run_id])
        execution.start()
        latest = None
        while latest is None or not latest.ended:
            over = not execution.is_alive()
            changed.clear()
            found = self._database.read(snapshot, run_id)
            if found != latest:
                latest = found
                yield found.at(utcnow())
            elif over:
                raise Unavailable("The run was not executed: another process has taken it.")
            else:
                changed.wait(POLL)
        execution.join()

    def cancel(self, run_id: str) -> Cancelled:
        assert self._runner is not None, "it was launched"
        return self._runner.cancel(run_id)

    def delete_run(self, run_id: str, *, dry_run: bool) -> Deleted:
        return self._database.write(deletion.delete_run, run_id, dry_run=dry_run)

    def delete_batch(self, batch_id: str, *, delete_runs: bool, dry_run: bool) -> Deleted:
        return self._database.write(deletion.delete_batch, batch_id, delete_runs=delete_runs, dry_run=dry_run)

    def prune(self, request: PruneRequest) -> Deleted:
        return prune(self._database, request)

    def retention(self) -> RetentionState | None:
        """What is pruned without being asked: nothing, where there is no server."""
        return None

    def check(self) -> list[Finding]:
        return self._database.read(check.find_broken)

    def query(self, query: SqlQuery, settings: Settings) -> SqlAnswer:
        """Runs one SELECT within the limits of the settings."""
        return Queries(self._database, settings).run(query, lambda answer: answer)


class Remote:
    """Works through a running server."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        try:
            # No limit on reading: an import answers when it is stored.
            self._http = httpx2.Client(base_url=url, headers=headers, timeout=httpx2.Timeout(30, read=None))
        except httpx2.InvalidURL as error:
            raise Unavailable(
                f"The address of the server is not valid ({error}); write it as http://HOST:PORT."
            ) from error
        # As people may see it: without a password.
        self._url = str(self._http.base_url.copy_with(userinfo=b"")).rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def runs(self, query: RunQuery, limit: int) -> Iterator[RunSummary]:
        """The newest runs that pass the filters."""
        given = query.model_dump(mode="json", exclude_defaults=True)
        params: Any = {**given, "limit": min(limit, PAGE)}
        while params is not None and limit > 0:
            response = self._send("GET", f"{API}/runs", params=params)
            page = self._parsed(list[RunSummary], response)
            yield from page[:limit]
            limit -= len(page)
            following = response.links.get("next", {}).get("url")
            # Behind a proxy the server may know itself by another address: only what it asks for counts.
            params = httpx2.URL(following).params if following else None

    def run(self, run_id: str) -> RunDetail:
        return self._parsed(RunDetail, self._send("GET", _path("run", run_id)))

    def import_file(self, path: Path, options: ImportOptions, report: Report) -> Imported:
        size = path.stat().st_size
        params = options.model_dump(mode="json", exclude_none=True)
        with path.open("rb") as stream:
            response = self._send(
                "POST", f"{API}/import", params=params, content=_reported(stream, size, report)
            )
        return self._parsed(Imported, response)

    def export(self, path: Path, request: ExportRequest, report: Report) -> ExportState:
        with atomic_file(path, overwrite=request.overwrite) as stream:
            counted = self._send("GET", f"{API}/runs", params={"limit": 1, "count": True})
            total = int(counted.headers.get("X-Total-Count", 0))
            body = request.model_dump(exclude={"filename", "overwrite"})
            started = self._parsed(ExportStarted, self._send("POST", f"{API}/export", json=body))
            address = f"{API}/exports/{started.export_id}"
            while (state := self._parsed(ExportState, self._send("GET", address))).status == "started":
                report(state.runs, total)
                time.sleep(POLL)
            if state.status != "completed":
                raise Unavailable(f"The export failed on the server: {state.error}")
            with self._answering(), self._http.stream("GET", f"{address}/file") as response:
                self._raise_for(response)
                for chunk in response.iter_bytes():
                    stream.write(chunk)
        return state.model_copy(update={"filename": path.name})

    def backup(self, path: Path, results: Path | None) -> Manifest:
        """Writes a backup of the server's database to a new file; with the server's result files if asked."""
        params = {"with_results": results is not None}
        with atomic_file(path, overwrite=False) as stream:
            with self._answering(), self._http.stream("POST", f"{API}/backup", params=params) as response:
                self._raise_for(response)
                for chunk in response.iter_bytes():
                    stream.write(chunk)
            stream.flush()
            return read_manifest(stream)

    def launch(self, request: LaunchRequest, settings: Settings) -> Launched:
        """Queues a run of the server's suite."""
        body = request.model_dump(mode="json")
        return self._parsed(Launched, self._send("POST", f"{TESTS}/run", json=body))

    def watch(self, run_id: str) -> Iterator[LiveStatus]:
        """Tells the status of the run at each change, also over a connection that was lost meanwhile."""
        ended, failures = False, 0
        while not ended:
            try:
                with (
                    self._answering(),
                    self._http.stream("GET", f"{TESTS}/events/{run_id}", timeout=WATCHED) as response,
                ):
                    self._raise_for(response)
                    for line in response.iter_lines():
                        if line.startswith("data:"):
                            status = LiveStatus.model_validate_json(line.removeprefix("data:"))
                            yield status
                            failures, ended = 0, status.status in TERMINAL
            except Unavailable:
                failures += 1
                if failures > RECONNECTS:
                    raise
                time.sleep(failures * POLL)

    def cancel(self, run_id: str) -> Cancelled:
        return self._parsed(Cancelled, self._send("POST", f"{TESTS}/cancel/{run_id}"))

    def delete_run(self, run_id: str, *, dry_run: bool) -> Deleted:
        response = self._send("DELETE", _path("run", run_id), params={"dry_run": dry_run})
        return self._parsed(Deleted, response)

    def delete_batch(self, batch_id: str, *, delete_runs: bool, dry_run: bool) -> Deleted:
        params = {"delete_runs": delete_runs, "dry_run": dry_run}
        response = self._send("DELETE", _path("batch", batch_id), params=params)
        return self._parsed(Deleted, response)

    def prune(self, request: PruneRequest) -> Deleted:
        body = request.model_dump()
        return self._parsed(Deleted, self._send("POST", f"{API}/prune", json=body))

    def retention(self) -> RetentionState | None:
        """What the server prunes without being asked; None when it does not say."""
        try:
            return self._parsed(RetentionState, self._send("GET", f"{API}/retention"))
        except AppError:
            return None

    def check(self) -> list[Finding]:
        return self._parsed(list[Finding], self._send("GET", f"{API}/check"))

    def query(self, query: SqlQuery, settings: Settings) -> SqlAnswer:
        """Runs one SELECT within the limits of the server."""
        body = query.model_dump(mode="json")
        return self._parsed(SqlAnswer, self._send("POST", f"{API}/query", json=body))

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        with self._answering():
            response = self._http.request(method, path, **kwargs)
            self._raise_for(response)
        return response

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Says in one sentence that the server cannot be reached, or broke off."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(
                f"The server at {self._url} does not answer ({error}); is it running, and at that address?"
            ) from error

    def _parsed(self, kind: type[Answer], response: httpx2.Response) -> Answer:
        try:
            return TypeAdapter(kind).validate_json(response.content)
        except ValidationError as error:
            raise self._stranger(response) from error

    def _raise_for(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        response.read()
        if response.headers.get("content-type") != "application/problem+json":
            raise self._stranger(response)
        try:
            detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger(response) from error
        kinds: dict[int, type[AppError]] = {404: NotFound, 409: Conflict, 503: Unavailable}
        raise kinds.get(response.status_code, AppError)(detail)

    def _stranger(self, response: httpx2.Response) -> Unavailable:
        return Unavailable(
            f"{self._url} answered {response.status_code}, but not as a Test Suite Database does; "
            "is it the right address, and the server of this version?"
        )


Client = Local | Remote


def _path(kind: str, key: str) -> str:
    """The address of a run or batch; no other text may become a part of an address."""
    if not is_id(key):
        raise NotFound(f"There is no {kind} {key!r}.")
    return f"{API}/{kind}/{key}"


def _reported(stream: BinaryIO, size: int, report: Report) -> Iterator[bytes]:
    sent = 0
    while chunk := stream.read(1 << 20):
        yield chunk
        sent += len(chunk)
        report(sent, size)
