"""Log lines: for people, or one JSON object each."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import cast

_PLAIN = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, the fields of `extra`, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _PLAIN},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure_logging(level: str, log_format: str) -> None:
    """Sends everything of that level and above to stderr."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handler.addFilter(_matters)
    handler.addFilter(_of_sockets)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At debug it writes the headers of WebSockets, and a token is one of them.
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLogger().level))


def _matters(record: logging.LogRecord) -> bool:
    """Of what Alembic tells, only what it applied; not its set-up, each time that a revision is asked for."""
    if not record.name.startswith("alembic.") or record.levelno >= logging.WARNING:
        return True
    return record.msg.startswith("Running")


def _of_sockets(record: logging.LogRecord) -> bool:
    """What uvicorn tells of WebSockets, without queries, which may hold secrets, and without the error that
    it finds in each handshake that is refused."""
    if record.name == "uvicorn.error" and '"WebSocket %s"' in str(record.msg):
        client, path, *status = cast(tuple[object, ...], record.args)
        record.args = (client, str(path).partition("?")[0], *status)
    return "without completing handshake" not in str(record.msg)
