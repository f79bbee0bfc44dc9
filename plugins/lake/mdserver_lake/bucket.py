"""The lake's objects, in a bucket or a folder: obstore in threads, its errors in plain sentences.

An object is written whole or not at all: a bucket shows it when it is complete, and in a folder it is renamed then.
obstore repeats what failed for a moment (429, 5xx, a broken connection), for as long as the config says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

import obstore
import trio
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from mdserver.errors import ConfigError, MdserverError, Rejected, Unavailable

__all__ = ["Bucket", "Denied", "Found", "LakeSettings", "open_bucket"]

T = TypeVar("T")

AT_ONCE = 8
"""Requests at a time."""

ATTEMPTS = 5
PAUSE_S = 0.2
"""For a request whose answer is broken off."""


class LakeSettings(Protocol):
    """The section ``lake`` of the config."""

    @property
    def url(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def region(self) -> str: ...
    @property
    def access_key_id(self) -> str | None: ...
    @property
    def secret_access_key(self) -> str | None: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def retry_for_s(self) -> float: ...


class Denied(Rejected):
    """The lake does not permit one thing, such as to list; others may be permitted."""


class Found(NamedTuple):
    """An object: its name below the lake's address, and its size."""

    key: str
    size_bytes: int


class Bucket:
    """The objects of a lake. Every call raises Unavailable for what a retry may mend, Rejected for what it cannot."""

    def __init__(self, store: S3Store | LocalStore, address: str, *, attempts: int = 1) -> None:
        """``attempts``: how often a request is made whose answer is broken off; obstore repeats only other failures."""
        self.address = address
        self._store = store
        self._attempts = attempts
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    async def put(self, key: str, data: bytes) -> None:
        """Write an object; it takes the place of one of the same name once it is whole."""
        await self._call(f"write {key}", lambda: obstore.put(self._store, key, data))

    async def get(self, key: str, *, most_bytes: int | None = None) -> bytes | None:
        """Return an object, None if there is none. Raises Denied where the lake does not let us know.

        One that is larger than ``most_bytes`` is not read: that raises Rejected.
        """

        def work() -> bytes:
            found = obstore.get(self._store, key)
            if most_bytes is not None and found.meta["size"] > most_bytes:
                raise Rejected(
                    f"the lake {self.address}: {key} has {found.meta['size']} bytes, expected at most {most_bytes}"
                )
            return bytes(found.bytes())

        return await self._call(f"read {key}", _none_if_missing(work))

    async def tail(self, key: str, size_bytes: int) -> bytes | None:
        """Return the last bytes of an object, all of it if it has no more; None if there is none, as :meth:`get`."""
        options: obstore.GetOptions = {"range": {"suffix": size_bytes}}
        work = _none_if_missing(lambda: bytes(obstore.get(self._store, key, options=options).bytes()))
        return await self._call(f"read {key}", work)

    async def objects(self, prefix: str) -> list[Found]:
        """Return all objects below a folder. Raises Denied where listing is not permitted."""

        def work() -> list[Found]:
            chunks = obstore.list(self._store, prefix.rstrip("/"), chunk_size=1_000)
            return [Found(unquote(one["path"]), one["size"]) for chunk in chunks for one in chunk]

        return await self._call(f"list {prefix or 'it'}", work)

    async def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders within a folder. Raises Denied where listing is not permitted."""

        def work() -> list[str]:
            found = obstore.list_with_delimiter(self._store, prefix.rstrip("/"))
            return [unquote(one.rstrip("/").rpartition("/")[2]) for one in found["common_prefixes"]]

        return await self._call(f"list {prefix or 'it'}", work)

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        attempts = 0
        while True:
            attempts += 1
            try:
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
            except (BaseError, OSError) as error:
                if attempts >= self._attempts or _BROKEN_OFF not in str(error):
                    raise _plain(error, f"the lake {self.address}: cannot {what}") from error
            await trio.sleep(attempts * PAUSE_S)


def _none_if_missing(work: Callable[[], bytes]) -> Callable[[], bytes | None]:
    """Return what ``work`` does, with None for an object that is not there; a bucket that is not there is an error."""

    def found() -> bytes | None:
        try:
            return work()
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    return found


def open_bucket(settings: LakeSettings) -> Bucket:
    """Return the lake of the config; nothing is connected yet. Raises ConfigError where there is none.

    A folder that is not there is made.
    """
    if settings.url is None or settings.address is None:
        raise ConfigError(["lake.url: missing, expected s3://BUCKET/PREFIX or file:///FOLDER"])
    scheme, _, rest = settings.url.partition("://")
    if scheme == "file":
        return Bucket(LocalStore(Path(unquote(rest)), mkdir=True), settings.address)
    name, _, prefix = rest.partition("/")
    keys = {}
    if settings.access_key_id is not None:
        keys = {
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key or "",
        }
    if settings.endpoint is not None:
        keys["endpoint"] = settings.endpoint.rstrip("/")
    store = S3Store(
        name,
        prefix=prefix.strip("/") or None,
        region=settings.region,
        client_options={
            "timeout": timedelta(seconds=settings.timeout_s),
            "connect_timeout": timedelta(seconds=min(settings.timeout_s, 10.0)),
            "allow_http": settings.endpoint is not None and settings.endpoint.startswith("http://"),
        },
        retry_config={
            "max_retries": 10 if settings.retry_for_s else 0,
            "retry_timeout": timedelta(seconds=settings.retry_for_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
        **keys,  # type: ignore[arg-type]
    )
    return Bucket(store, settings.address, attempts=ATTEMPTS if settings.retry_for_s else 1)


_SENTENCES = (
    ("RequestTimeTooSkewed", "this machine's clock differs too much from the service's: set it, by NTP best"),
    ("SignatureDoesNotMatch", "the secret_access_key is wrong"),
    ("InvalidAccessKeyId", "the access_key_id is not known there"),
    ("ExpiredToken", "the credentials have expired"),
    ("NoSuchBucket", "there is no such bucket"),
    ("PermanentRedirect", "the bucket lies in another region: set lake.region"),
    ("AuthorizationHeaderMalformed", "the region is wrong: set lake.region"),
)
"""What S3 and its like say, and what that means."""


_BROKEN_OFF = "response body"
"""What obstore's errors have in common whose answer ended too early."""

_STATUS = re.compile(r"\b([45]\d\d) [A-Z][a-z]")
"""``403 Forbidden``: obstore has classes of errors for single objects, but not for a list."""


def _plain(error: Exception, what: str) -> MdserverError:
    """Return an error of obstore or of the file system as one of ours."""
    whole = str(error)
    text = whole.partition("\n\nDebug source")[0].strip()
    for code, sentence in _SENTENCES:
        if code in text:
            return Rejected(f"{what}: {sentence}")
    found = _STATUS.search(text)
    status = found[1] if found else ""
    if isinstance(error, PermissionDeniedError | PermissionError) or status == "403":
        return Denied(f"{what}: not permitted (403): {_short(text)}")
    if isinstance(error, UnauthenticatedError) or status == "401":
        return Rejected(f"{what}: the credentials are not accepted (401)")
    if isinstance(error, FileNotFoundError) or status == "404":
        return Rejected(f"{what}: there is nothing (404): {_short(text)}")
    if status == "429" or status.startswith("5"):
        return Unavailable(f"{what}: the service answers {status} again and again, try later: {_short(text)}")
    if _BROKEN_OFF in text:
        return Unavailable(f"{what}: the answer was broken off: {_short(text)}")
    if "kind: Timeout" in whole:
        return Unavailable(f"{what}: no answer in time: {_short(text)}")
    if "kind: Connect" in whole:
        return Unavailable(f"{what}: nobody answers there: {_short(text)}")
    return Unavailable(f"{what}: {_short(text)}")


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 300 else one_line[:300] + " …"
