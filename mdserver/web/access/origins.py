"""Which hosts this server answers to, and which web pages may ask it.

A browser lets any page send requests to any address. Two headers tell: ``Origin`` names the page, ``Host`` the name
under which it found us. A page whose own name resolves to our address (DNS rebinding) is of our origin as the browser
sees it, and only its name in ``Host`` gives it away. A number cannot be made to mean another machine, so every IP
address is a good ``Host``: behind a port that is forwarded we could not know our own. So is a name without a dot: no
page of the internet is served under one, and containers and machines of a network call each other by them.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

import attrs

from ...config import ServerConfig

__all__ = ["Origins", "host_name"]

_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}


@attrs.frozen
class Origins:
    """The allowed ones. ``hosts`` are in lower case."""

    hosts: frozenset[str]
    allowed: frozenset[str]

    @classmethod
    def of(cls, server: ServerConfig) -> Origins:
        """Read what the config allows."""
        named = {host.lower() for host in (*server.allowed_hosts, *server.hosts) if host}
        named |= {(urlsplit(origin).hostname or "") for origin in server.allowed_origins}
        named |= {"localhost", socket.gethostname().lower()}
        hosts = frozenset(named - {""}) - ({"*"} if "*" not in server.allowed_hosts else set())
        return cls(hosts, frozenset(origin.lower() for origin in server.allowed_origins))

    def is_our_host(self, host: str | None) -> bool:
        """Tell whether a ``Host`` header names this server."""
        name = host_name(host or "")
        if name is None:
            return False
        if "." not in name or _is_number(name):
            return True
        return name in self.hosts or name.endswith(".localhost") or "*" in self.hosts

    def may_ask(self, origin: str | None, host: str | None) -> bool:
        """Tell whether a page of this ``Origin`` may ask; no header means that no page of another origin asks."""
        if origin is None:
            return True
        origin = origin.lower()
        if "*" in self.allowed or origin in self.allowed:
            return True
        scheme, separator, theirs = origin.partition("://")
        return bool(separator) and host is not None and _same(scheme, theirs, host.lower())


def host_name(host: str) -> str | None:
    """Return the name or number in a ``Host`` header, in lower case, without port; None if it is none."""
    if host.startswith("["):
        number, bracket, rest = host[1:].partition("]")
        good = bool(bracket) and _is_number(number) and (not rest or _is_port(rest))
        return number.lower() if good else None
    name, colon, port = host.partition(":")
    if not name or (colon and not port.isdecimal()) or any(c in name for c in " /\\@?#,%\t"):
        return None
    return name.rstrip(".").lower() or None


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isdecimal()


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same(scheme: str, theirs: str, ours: str) -> bool:
    """Tell whether an origin's host and port are those of ``Host``; which scheme a proxy speaks for us is unknown."""
    port = _DEFAULT_PORTS.get(scheme)
    if port is None:
        return False
    return theirs == ours or theirs.removesuffix(f":{port}") == ours.removesuffix(f":{port}")
