"""Decides to which host names the server answers, and which web pages may send requests to it.

A browser lets any page send requests to any address. Two headers identify such a request: ``Origin`` names the page,
and ``Host`` the name under which the browser reached the server. If a page's own name resolves to the server's address
(DNS rebinding), the browser sees page and server as one origin, and only the name in ``Host`` reveals it. DNS cannot
redirect an IP address, so every IP address is accepted as ``Host``; behind a forwarded port the server could not know
its own. A name without a dot is accepted too: no page of the internet has one, and containers and machines in a local
network use them.
"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

import attrs

from ...config import ServerConfig

__all__ = ["Origins", "host_name"]

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII | re.IGNORECASE)
"""A name in DNS, and what containers use besides: the URL of a request with another host cannot even be parsed."""

_DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}


@attrs.frozen
class Origins:
    """The allowed hosts and origins. ``hosts`` are in lower case."""

    hosts: frozenset[str]
    allowed: frozenset[str]

    @classmethod
    def of(cls, server: ServerConfig) -> Origins:
        """Return the hosts and origins that the config allows."""
        named = {host.lower() for host in (*server.allowed_hosts, *server.hosts) if host}
        named |= {(urlsplit(origin).hostname or "") for origin in server.allowed_origins}
        named |= {"localhost", socket.gethostname().lower()}
        hosts = frozenset(named - {""}) - ({"*"} if "*" not in server.allowed_hosts else set())
        return cls(hosts, frozenset(origin.lower() for origin in server.allowed_origins))

    def is_our_host(self, host: str | None) -> bool:
        """Return whether a ``Host`` header names this server."""
        name = host_name(host or "")
        if name is None:
            return False
        if "." not in name or _is_number(name):
            return True
        return name in self.hosts or name.endswith(".localhost") or "*" in self.hosts

    def may_ask(self, origin: str | None, host: str | None) -> bool:
        """Return whether a page of this ``Origin`` may send requests; without the header there is no foreign page."""
        if origin is None:
            return True
        origin = origin.lower()
        if "*" in self.allowed or origin in self.allowed:
            return True
        scheme, separator, theirs = origin.partition("://")
        return bool(separator) and host is not None and _same(scheme, theirs, host.lower())


def host_name(host: str) -> str | None:
    """Return the name or IP address in a ``Host`` header, in lower case, without port; None if it is invalid."""
    if host.startswith("["):
        number, bracket, rest = host[1:].partition("]")
        good = bool(bracket) and _is_number(number) and (not rest or _is_port(rest))
        return number.lower() if good else None
    name, colon, port = host.partition(":")
    if (colon and not port.isdecimal()) or _NAME.fullmatch(name.removesuffix(".")) is None:
        return None
    return name.removesuffix(".").lower()


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isdecimal()


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same(scheme: str, theirs: str, ours: str) -> bool:
    """Return whether an origin has the host and port of ``Host``; behind a proxy the scheme is unknown."""
    port = _DEFAULT_PORTS.get(scheme)
    if port is None:
        return False
    return theirs == ours or theirs.removesuffix(f":{port}") == ours.removesuffix(f":{port}")
