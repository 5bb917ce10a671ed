"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from app.errors import AppError, FieldError, Invalid
from app.schemas.validation import field_errors


class FieldProblem(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """What went wrong and what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class InvalidProblem(Problem):
    errors: list[FieldProblem] = Field(description="Every field that is wrong.")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema with its parts in place: `$defs` would not be found inside an OpenAPI document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})
    for field in schema["properties"].values():
        if reference := field.get("items", {}).get("$ref"):
            field["items"] = parts[reference.rpartition("/")[2]]
    return schema


_SCHEMAS = {model: _schema(model) for model in (Problem, InvalidProblem)}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented error answers of an endpoint; 403, 422 and 503 are always among them."""
    found: dict[int | str, dict[str, Any]] = {}
    of_bodies = (408,) if 413 in statuses else ()
    for status in sorted({*statuses, *of_bodies, 403, 422, 503}):
        model = InvalidProblem if status == 422 else Problem
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": _SCHEMAS[model]}},
        }
    return found


_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    503: {"Retry-After": "1"},
}


def render(
    status: int,
    title: str,
    detail: str,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors is not None:
        body["errors"] = errors
    return Response(to_json(body), status, headers, media_type="application/problem+json")


def render_error(error: AppError) -> Response:
    errors = error.errors if isinstance(error, Invalid) else None
    return render(error.status, error.title, error.detail, errors, _HEADERS.get(error.status))


def render_bug() -> Response:
    """The answer to an error that nobody raised on purpose."""
    return render(500, "Internal error", "This is a fault of the server; its log says more.")


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem document; none of them waits for a thread."""

    @app.exception_handler(AppError)
    async def on_app_error(_request: Request, error: AppError) -> Response:
        return render_error(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):  # it was not read as JSON
            return render_error(Invalid.of("body", "must be JSON, sent as Content-Type: application/json"))
        return render_error(Invalid(field_errors(_located(error))))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        cause = error.__cause__
        if isinstance(cause, AppError):
            return render_error(cause)
        if error.status_code == 400:  # the framework could not parse the body
            return render_error(Invalid.of("body", "is not valid JSON in UTF-8, or is nested too deeply"))
        phrase = HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {error.detail}. The endpoints are listed at /docs."
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the framework names the methods of the first of several routes alone
            headers["Allow"] = ", ".join(_methods(request))
        return render(error.status_code, phrase, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """The methods that the path of a request takes, as the description of the API says."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), request.url.path):
            found |= {method.upper() for method in operations}
    return sorted(found)


def _located(error: RequestValidationError) -> list[dict[str, Any]]:
    """The findings, with `body`, `query` and `path` left out of the places they name."""
    found = []
    for item in error.errors():
        location = item["loc"]
        if item["type"] == "json_invalid":
            found.append({**item, "loc": (), "msg": f"is not valid JSON: {item['ctx']['error']}"})
        else:
            found.append({**item, "loc": location[1:]})
    return found
