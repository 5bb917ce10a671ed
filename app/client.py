"""The two ways commands reach the data: through a running server, or straight on a database.

`Remote` and `Local` have the same methods and answer the same things.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter

from app.db.opening import open_database
from app.errors import AppError, Conflict, NotFound, Unavailable
from app.schemas.check import Finding
from app.schemas.runs import Deleted, RunDetail, RunQuery, RunSummary
from app.schemas.transfer import ExportRequest, ExportState, Imported, ImportOptions
from app.services import check, deletion, importing, runs
from app.services.export import Progress, write_export
from app.services.files import atomic_file, plain_stream

API = "/api/test/db"
PAGE = 1000
POLL = 0.2  # seconds between two looks at an export

Answer = TypeVar("Answer")
Report = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


class Local:
    """Works on a database that nothing else holds."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        self._database = open_database(url, create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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

    def delete_run(self, run_id: str, *, dry_run: bool) -> Deleted:
        return self._database.write(deletion.delete_run, run_id, dry_run=dry_run)

    def delete_batch(self, batch_id: str, *, delete_runs: bool, dry_run: bool) -> Deleted:
        return self._database.write(deletion.delete_batch, batch_id, delete_runs=delete_runs, dry_run=dry_run)

    def check(self) -> list[Finding]:
        return self._database.read(check.find_broken)


class Remote:
    """Works through a running server."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # No limit on reading: an import answers when it is stored.
        self._http = httpx2.Client(base_url=self._url, timeout=httpx2.Timeout(30, read=None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def runs(self, query: RunQuery, limit: int) -> Iterator[RunSummary]:
        """The newest runs that pass the filters."""
        given = query.model_dump(mode="json", exclude_defaults=True)
        url: str | None = f"{API}/runs"
        params: dict[str, Any] | None = {**given, "limit": min(limit, PAGE)}
        while url is not None and limit > 0:
            response = self._send("GET", url, params=params)
            page = TypeAdapter(list[RunSummary]).validate_json(response.content)
            yield from page[:limit]
            limit -= len(page)
            url, params = response.links.get("next", {}).get("url"), None

    def run(self, run_id: str) -> RunDetail:
        return self._get(RunDetail, f"{API}/run/{run_id}")

    def import_file(self, path: Path, options: ImportOptions, report: Report) -> Imported:
        size = path.stat().st_size
        params = options.model_dump(mode="json", exclude_none=True)
        with path.open("rb") as stream:
            response = self._send(
                "POST", f"{API}/import", params=params, content=_reported(stream, size, report)
            )
        return Imported.model_validate_json(response.content)

    def export(self, path: Path, request: ExportRequest, report: Report) -> ExportState:
        with atomic_file(path, overwrite=request.overwrite) as stream:
            total = int(
                self._send("GET", f"{API}/runs", params={"limit": 1, "count": True}).headers["X-Total-Count"]
            )
            body = request.model_dump(exclude={"filename", "overwrite"})
            export_id = self._send("POST", f"{API}/export", json=body).json()["export_id"]
            while (state := self._get(ExportState, f"{API}/exports/{export_id}")).status == "started":
                report(state.runs, total)
                time.sleep(POLL)
            if state.status != "completed":
                raise Unavailable(f"The export failed on the server: {state.error}")
            with self._http.stream("GET", f"{API}/exports/{export_id}/file") as response:
                self._raise_for(response)
                for chunk in response.iter_bytes():
                    stream.write(chunk)
        return state.model_copy(update={"filename": path.name})

    def delete_run(self, run_id: str, *, dry_run: bool) -> Deleted:
        response = self._send("DELETE", f"{API}/run/{run_id}", params={"dry_run": dry_run})
        return Deleted.model_validate_json(response.content)

    def delete_batch(self, batch_id: str, *, delete_runs: bool, dry_run: bool) -> Deleted:
        params = {"delete_runs": delete_runs, "dry_run": dry_run}
        response = self._send("DELETE", f"{API}/batch/{batch_id}", params=params)
        return Deleted.model_validate_json(response.content)

    def check(self) -> list[Finding]:
        return TypeAdapter(list[Finding]).validate_json(self._send("GET", f"{API}/check").content)

    def _get(self, answer: type[Model], path: str) -> Model:
        return answer.model_validate_json(self._send("GET", path).content)

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **kwargs)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(
                f"The server at {self._url} does not answer ({error}); is it running, and at that address?"
            ) from error
        self._raise_for(response)
        return response

    def _raise_for(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = f"{self._url} answered {response.status_code}; is it a Test Suite Database?"
        kinds: dict[int, type[AppError]] = {404: NotFound, 409: Conflict}
        raise kinds.get(response.status_code, AppError)(str(detail))


Model = TypeVar("Model", bound=BaseModel)
Client = Local | Remote


def _reported(stream: BinaryIO, size: int, report: Report) -> Iterator[bytes]:
    sent = 0
    while chunk := stream.read(1 << 20):
        yield chunk
        sent += len(chunk)
        report(sent, size)
