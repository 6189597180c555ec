"""The server's log: one JSON object per line on standard error. It never holds audio or file names."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("emodistill.serving")


class JsonFormatter(logging.Formatter):
    """Formats a log record, with the fields of `extra={"fields": …}`, as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON with time, level, event, fields, and the traceback of an exception."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # json.dumps writes ASCII, so no character from a client can end the line or fail to encode.
        return json.dumps(line, default=str)


def log_event(
    event: str, level: int = logging.INFO, *, exc_info: BaseException | None = None, **fields: Any
) -> None:
    """Write one event with its fields, and perhaps an exception, to the log."""
    log.log(level, event, extra={"fields": fields}, exc_info=exc_info)


def log_to_stderr(level: str = "INFO") -> None:
    """Send the log of this package and of uvicorn to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    # uvicorn's own line about a WebSocket would hold the query string.
    handler.addFilter(lambda record: not str(record.msg).startswith('%s - "WebSocket'))
    for name in ("emodistill.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level)
