"""Whether a server is open to more than its own machine, and whether the operator said so."""

from __future__ import annotations

from ipaddress import ip_address

from ..errors import ConfigError
from .sections import ServerConfig

__all__ = ["check_exposure", "is_loopback", "is_open"]


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only. A name other than localhost: no."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or bool(
        (mapped := getattr(address, "ipv4_mapped", None)) and mapped.is_loopback
    )


def is_open(server: ServerConfig) -> bool:
    """Tell whether clients need no key: where the config says so, and on loopback while there are no keys."""
    if server.auth.allow_anonymous is not None:
        return server.auth.allow_anonymous
    return not server.auth.keys and all(map(is_loopback, server.hosts))


def check_exposure(server: ServerConfig) -> None:
    """Raise ConfigError where the server would be open to others without anyone having said so, or open to nobody."""
    if server.auth.keys or is_open(server):
        return
    if server.auth.allow_anonymous is False:
        message = (
            "server.auth: nobody could connect: allow_anonymous is false and there are no keys; "
            "make one with `mdserver keys new NAME`"
        )
    else:
        exposed = ", ".join(host for host in server.hosts if not is_loopback(host))
        message = (
            f"server.host: {exposed} is open to other machines and there are no keys: make one with "
            "`mdserver keys new NAME`, or let everyone in with server.auth.allow_anonymous: true (--allow-anonymous)"
        )
    raise ConfigError([message])
