"""The settings: each has a description, a default, and an environment variable `TESTDB_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.db.engine import file_url, require_supported


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
    results_dir: Path = Field(Path("data/results"), description="Directory for the result files of runs.")
    suites: Path | None = Field(
        None, description="The suite that tests are run from; the built-in one when not given."
    )
    max_parallel: int = Field(2, ge=1, description="Most runs at a time; the others wait in order.")
    export_dir: Path = Field(Path("data/exports"), description="Directory that exports are written into.")
    url: str | None = Field(
        None, description="Address of a running server; commands then work through it, not on a database."
    )
    max_body_mb: int = Field(
        512, ge=1, description="Largest request body in MiB, before and after decompression."
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
