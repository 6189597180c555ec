"""The log of a server: one JSON object a line, on standard error. Neither audio nor file names are written."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("emodistill.serving")


class JsonLines(logging.Formatter):
    """A record, with the fields of `extra={"fields": …}`, as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """JSON without line breaks."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            line, default=str
        )  # ASCII: no character of a client ends a line, or has no encoding


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write one event."""
    log.log(level, event, extra={"fields": fields})


def to_stderr(level: str = "INFO") -> None:
    """Send this package's and uvicorn's log to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(
        lambda record: not str(record.msg).startswith('%s - "WebSocket')
    )  # uvicorn's, with the query
    for name in ("emodistill.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level)
