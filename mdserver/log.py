"""Logging: the server's events by structlog, and those of the standard library's loggers in the same form.

Each event is one line on standard error: JSON for programs, text for people. Secrets are hidden.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from math import inf
from time import monotonic
from typing import Any, ClassVar, TextIO

import structlog
from structlog.typing import EventDict, Processor

from .config import LogConfig
from .redact import HIDDEN, is_secret_name, redact

__all__ = ["RarelyLogged", "get_logger", "set_up_logging"]

_NOISY = ("psycopg.pool", "hypercorn.access", "httpx2", "httpcore2")
"""Libraries' loggers that log each step at INFO; only their warnings are shown, except at the level debug."""

_SAID_BY_US = ("coredis",)
"""Libraries' loggers that print a traceback for what the server says in a sentence: a Redis that is away."""


_EVENTS = 1_000
"""The most different events of brokers that are counted each by itself."""


def set_up_logging(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send all logs of the process to ``stream`` (default: standard error). May be called again with another config."""
    stream = sys.stderr if stream is None else stream
    as_text = config.format == "text" or (config.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _hide_secrets,
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(as_text=as_text, colors=stream.isatty()),
            ],
        )
    )
    level = getattr(logging, config.level.upper())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(level if config.level == "debug" else max(level, logging.WARNING))
    for name in _SAID_BY_US:
        logging.getLogger(name).setLevel(level if config.level == "debug" else logging.CRITICAL)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _BoundedBrokers(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Module-level loggers are made before the config is read.
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger with a name: ``mdserver`` for the server's own."""
    return structlog.stdlib.get_logger(name)


class RarelyLogged:
    """Logs an event at most once per ``every_s`` seconds, with the number of suppressed ones in between.

    For events that may happen with every record or request. Events must be constants: each is remembered for ever.
    """

    __slots__ = ("_every_s", "_log", "_seen")

    def __init__(self, log: structlog.stdlib.BoundLogger, every_s: float = 60.0) -> None:
        self._log = log
        self._every_s = every_s
        self._seen: dict[str, tuple[float, int]] = {}

    def warning(self, event: str, **about: object) -> None:
        """Log a warning, or count it."""
        self._note("warning", event, about)

    def error(self, event: str, **about: object) -> None:
        """Log an error, or count it."""
        self._note("error", event, about)

    def _note(self, level: str, event: str, about: Mapping[str, object]) -> None:
        now_s = monotonic()
        logged_s, not_logged = self._seen.get(event, (-inf, 0))
        if now_s - logged_s < self._every_s:
            self._seen[event] = (logged_s, not_logged + 1)
            return
        self._seen[event] = (now_s, 0)
        more = {"not_logged": not_logged} if not_logged else {}
        getattr(self._log, level)(event, **about, **more)


class _BoundedBrokers:
    """Drops the lines of a broker that repeats an event endlessly, and says how many with the next one.

    A plugin logs what its venue does, which may be anything, and nobody should have to keep every plugin's lines few.
    """

    def __init__(
        self, most: int = 20, within_s: float = 60.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, _logger: Any, _name: str, event: EventDict) -> EventDict:
        broker = event.get("broker")
        if broker is None:
            return event
        key = str(broker), str(event.get("event"))
        if key not in self._seen and len(self._seen) >= _EVENTS:
            key = str(broker), ""  # a plugin that makes up a new event each time
        now_s = self._clock()
        began_s, count = self._seen.get(key, (now_s, 0))
        if now_s - began_s >= self._within_s:
            if count > self._most:
                event["not_logged"] = count - self._most
            began_s, count = now_s, 0
        self._seen[key] = began_s, count + 1
        if count >= self._most:
            raise structlog.DropEvent
        return event


def _renderers(*, as_text: bool, colors: bool) -> list[Processor]:
    if as_text:
        # Plain tracebacks: structlog's pretty ones print local variables, which may contain secrets.
        return [structlog.processors.format_exc_info, _Redacted(_TextLine(on_terminal=colors))]
    return [
        structlog.processors.format_exc_info,
        _redact_values,  # before the JSON is made, because hiding parts of it could make it invalid
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


class _TextLine:
    """Renders for people: time, level, sentence, then the event's values.

    On a terminal the time is the local time of day. Elsewhere the text may be read on another day, so it has the date
    and UTC.
    """

    _COLORS: ClassVar = {
        "warning": "\x1b[33m",
        "error": "\x1b[31m",
        "critical": "\x1b[31m",
        "debug": "\x1b[2m",
    }
    _DIM, _PLAIN = "\x1b[2m", "\x1b[0m"

    def __init__(self, *, on_terminal: bool) -> None:
        self._on_terminal = on_terminal

    def __call__(self, _logger: Any, _name: str, event: EventDict) -> str:
        moment = datetime.fromisoformat(event.pop("timestamp"))
        level = str(event.pop("level", "info"))
        sentence = event.pop("event", "")
        more = [text for key in ("stack", "exception") if (text := event.pop(key, None))]
        event.pop("logger", None)
        facts = "  ".join(f"{key}={_fact(value)}" for key, value in event.items())
        if self._on_terminal:
            color = self._COLORS.get(level, "")
            time = f"{self._DIM}{moment.astimezone():%H:%M:%S}{self._PLAIN}"
            head = f"{time} {color}{level:<7}{self._PLAIN} {sentence}"
            facts = f"{self._DIM}{facts}{self._PLAIN}" if facts else ""
        else:
            head = f"{moment:%Y-%m-%d %H:%M:%SZ} {level:<7} {sentence}"
        return "\n".join([f"{head}  {facts}".rstrip(), *map(str, more)])


def _fact(value: object) -> str:
    return value if isinstance(value, str) and value and not any(map(str.isspace, value)) else repr(value)


class _Redacted:
    """Renders, then hides everything that looks like a secret: in the event, an error, a traceback."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        return redact(str(self._render(logger, name, event)))


def _redact_values(_logger: Any, _name: str, event: EventDict) -> EventDict:
    return {key: _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    """Hide secrets at any depth; a value that JSON cannot represent becomes its repr."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return redact(value if isinstance(value, str) else repr(value))


def _hide_secrets(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Hide the values of keys that are named like secrets, at any depth of mappings."""
    return _without_secrets(event)


def _without_secrets(found: Mapping[str, Any]) -> MutableMapping[str, Any]:
    def hidden(key: object, value: Any) -> Any:
        if isinstance(key, str) and is_secret_name(key):
            return HIDDEN
        return _without_secrets(value) if isinstance(value, dict) else value

    return {key: hidden(key, value) for key, value in found.items()}
