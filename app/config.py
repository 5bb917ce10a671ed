"""The settings: each has a description, a default, and an environment variable `TESTDB_<NAME>`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.db.engine import embedded_file, file_url, require_supported
from app.schemas.common import Duration
from app.schemas.runs import TagFilter


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], NoDecode, BeforeValidator(_listed)]
"""Separated by commas in an option or in the environment."""


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Settings(BaseSettings):
    """What an operator can choose. Command-line options win over the environment."""

    model_config = SettingsConfigDict(env_prefix="TESTDB_", extra="ignore")

    db_path: Path = Field(
        Path("data/test_runs.duckdb"),
        description="The embedded DuckDB file; it is created when it does not exist.",
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the database, for example `postgresql://user@host/name`; "
        "wins over `db_path`.",
    )
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the server listens on; 0 takes a free one.")
    insecure: bool = Field(
        False, description="Listen on an address that is not loopback also when there is no token."
    )
    token_file: Path | None = Field(
        None,
        description="The file of tokens; when not given, beside the embedded file, for a server's database "
        "`.tokens` in `results_dir`.",
    )
    allowed_hosts: Names = Field(
        [],
        description="Names, without port, that the server is reached by beside loopback and its address, "
        "separated by commas; `*`: any.",
    )
    allowed_origins: Names = Field(
        [],
        description="Web sites, such as `https://ci.example.com`, whose pages may send requests, separated "
        "by commas.",
    )
    results_dir: Path = Field(Path("data/results"), description="Directory for the result files of runs.")
    suites: Path | None = Field(
        None, description="The suite that tests are run from; the built-in one when not given."
    )
    max_parallel: int = Field(2, ge=1, description="Most runs at a time; the others wait in order.")
    export_dir: Path = Field(Path("data/exports"), description="Directory that exports are written into.")
    retention: Duration | None = Field(
        None, description="Age at which runs that ended are deleted, for example `90d`; never when not given."
    )
    retention_keep_tags: Annotated[list[TagFilter], NoDecode, BeforeValidator(_listed)] = Field(
        [], description="Runs with any of these tags stay: `NAME` or `NAME=VALUE`, separated by commas."
    )
    retention_every: Duration = Field("1d", description="How often old runs are looked for.")
    url: str | None = Field(
        None, description="Address of a running server; commands then work through it, not on a database."
    )
    token: str | None = Field(
        None, repr=False, description="The token that commands send to the server; best in the environment."
    )
    max_body_mb: int = Field(
        512, ge=1, description="Largest request body in MiB, before and after decompression."
    )
    max_requests: int = Field(
        1000,
        ge=1,
        description="Most requests at once, also those that watch runs; more are answered 503.",
    )
    request_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds for the headers of a request, that its body may pause or fall behind 4 KiB a "
        "second, and that a client may take nothing of an answer.",
    )
    write_timeout: float = Field(
        60.0, gt=0, description="Seconds a write waits for its turn before it is answered with 503."
    )
    query_timeout: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Seconds that a statement of `testdb query` or `POST /query` may take.",
    )
    query_memory_mb: int = Field(
        256, ge=16, description="MiB of memory that such a statement may take before it is stopped."
    )
    query_parallel: int = Field(
        1,
        ge=1,
        description="Most such statements at a time; others wait a second, then they are answered 503.",
    )
    shutdown_timeout: int = Field(
        30, ge=0, description="Seconds that requests in flight get to finish at shutdown."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people, or JSON lines.")

    @field_validator("db_path")
    @classmethod
    def _file(cls, value: Path) -> Path:
        require_supported(file_url(value))
        return value

    @field_validator("database_url")
    @classmethod
    def _supported(cls, value: str | None) -> str | None:
        if value:
            require_supported(value)
        return value or None

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        if any(not re.fullmatch(r"https?://[^/]+", origin) for origin in value):
            raise ValueError("must be origins such as https://ci.example.com, without a path")
        return value

    @field_validator("token")
    @classmethod
    def _sendable(cls, value: str | None) -> str | None:
        value = (value or "").strip()
        if not re.fullmatch("[!-~]*", value):
            raise ValueError("has a space or other odd characters in it")
        return value or None

    @field_validator("retention", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return value or None

    @field_validator("url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://, for example http://127.0.0.1:8000")
        return value or None

    @property
    def sqlalchemy_url(self) -> str:
        """The URL of the chosen database."""
        return self.database_url or file_url(self.db_path)

    @property
    def tokens_path(self) -> Path:
        """The file of tokens. Servers that share a database share the results directory, too."""
        if self.token_file is not None:
            return self.token_file
        file = embedded_file(self.sqlalchemy_url)
        return self.results_dir / ".tokens" if file is None else file.with_name(f"{file.name}.tokens")

    @property
    def loopback_only(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)
