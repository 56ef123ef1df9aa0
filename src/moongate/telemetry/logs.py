"""Structured logs on standard error: console for people, one JSON object a line for programs.

Libraries that use the standard library's logging come out in the same format. Secrets
are dropped here once more, although nobody should hand them over.
"""

import logging
import re
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

__all__ = ["get_logger", "setup_logging"]

MASK = "***"
# `token_id` or `secret_name` may be logged: only what is called a secret itself is one.
SECRET_KEY = re.compile(
    r"(token|password|passwd|secret|authorization|cookie|api_?key|join|credentials?)$", re.IGNORECASE
)
SECRET_TEXT = re.compile(
    r"(?P<before>\b(?:bearer|basic)\s+|moongate://[^\s#]*#|://[^\s/:@]*:)(?P<secret>[^\s@'\"]+)", re.IGNORECASE
)
# Line feed and tab stay: tracebacks need them. C1 is as much control as C0 to a terminal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# These speak at `info` of what concerns only their authors.
CHATTY = ("acme", "alembic", "aiosqlite", "asyncio", "httpx", "httpcore", "sqlalchemy", "urllib3", "uvicorn.access")


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of one module; before `setup_logging` it prints in structlog's own way."""
    logger: FilteringBoundLogger = structlog.get_logger(source=name.removeprefix("moongate."))
    return logger


def setup_logging(level: str = "info", log_format: Literal["console", "json"] = "console") -> None:
    """Send all logs of this process to standard error; may be called again, for a reload."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        drop_secrets,
    ]
    ending = _ending(log_format)
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        # A cached logger would keep its level over a reload.
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging(threshold, shared, ending)


def _ending(log_format: Literal["console", "json"]) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.JSONRenderer(default=str)]
    return [neutralise, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]


def _adopt_standard_logging(threshold: int, shared: list[Processor], ending: list[Processor]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_source, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _name_source(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["source"] = event["_record"].name
    return event


def drop_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of keys that name a secret, and what looks like one inside any text."""
    for key, value in event.items():
        event[key] = MASK if value and SECRET_KEY.search(key) else _without_secrets(value)
    return event


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return SECRET_TEXT.sub(rf"\g<before>{MASK}", value)
        case dict():
            return {
                key: MASK if isinstance(key, str) and SECRET_KEY.search(key) else _without_secrets(inner)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_without_secrets(inner) for inner in value]
        case _:
            return value


def neutralise(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Show control bytes instead of sending them to a terminal; strangers choose paths and names."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    return event
