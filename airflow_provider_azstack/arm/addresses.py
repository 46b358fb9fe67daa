"""
Where requests may go: addresses, their TLS rule, and the CA bundle.

Owns the checks of URLs before anything is sent; sends nothing itself.
Invariant: a certificate is always verified, or the peer is this very machine. A URL that came from
the outside (nextLink, polling address, redirect) is used only on the host that was configured.
"""

import functools
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from airflow_provider_azstack.errors import ConfigurationError, Refused
from airflow_provider_azstack.secret import without_query

_PORTS = {"http": 80, "https": 443}
# Not everywhere is there a second word for it.
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def origin(url: str) -> tuple[str, str, int]:
    """
    Return scheme, host and port of ``url``, comparable.

    :raises ConfigurationError: it is no ``http(s)`` address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError("an address is malformed: use https://host[:port]") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise ConfigurationError(f"{without_query(url)!r} is no address: use https://host[:port]")
    return parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme]


def require_tls(url: str, what: str) -> str:
    """
    Return ``url`` when it is https, or http to this machine (the emulator's).

    :raises ConfigurationError: plain http elsewhere: secrets would be readable on the wire.
    """
    scheme, host, _ = origin(url)
    if scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"{what} {without_query(url)} is plain http: secrets go over https only, "
            "with the stack's CA in ca_bundle"
        )
    return url


def same_origin(url: str, base: str, what: str) -> str:
    """
    Return ``url`` made absolute when it stays on the host of ``base``.

    :raises Refused: it leads elsewhere, where our token must not go.
    """
    absolute = urljoin(base, url)
    try:
        stays = origin(absolute) == origin(base)
    except ConfigurationError:
        stays = False
    if not stays:
        raise Refused(
            f"{what} of {urlsplit(base).netloc} leads to another host, "
            f"{urlsplit(absolute).netloc[:200]!r}: not followed, no token sent; "
            "check the ARM endpoint of the connection"
        )
    return absolute


def ca_context(ca_bundle: str | None) -> ssl.SSLContext:
    """
    Return a verifying TLS context: the same one until the file is another.

    To read the system's CAs takes 20 ms of CPU, and every disk that is read has a client.

    :param ca_bundle: path of a PEM file or directory; None for the system's CAs.
    :raises ConfigurationError: no such file, or no certificate in it.
    """
    try:
        written = Path(ca_bundle).stat().st_mtime_ns if ca_bundle else 0
        return _context(ca_bundle, written)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"ca_bundle {ca_bundle} cannot be used ({error.strerror or error}): "
            "give a readable PEM file with the CA certificates of the stack"
        ) from None


def ca_path() -> str | bool:
    """Return where the system's CAs are, in the words of requests: a path, or its own CAs."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


@functools.lru_cache(maxsize=8)
def _context(ca_bundle: str | None, _written: int) -> ssl.SSLContext:
    if ca_bundle and Path(ca_bundle).is_dir():
        return ssl.create_default_context(capath=ca_bundle)
    return ssl.create_default_context(cafile=ca_bundle)


def untrusted(error: BaseException, host: str) -> ConfigurationError | None:
    """Return what to say when ``error`` comes from a certificate that does not verify."""
    for one in causes(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"the certificate of {host} does not verify ({one.verify_message}): put the CA "
                "that signed it into ca_bundle, and use the name that the certificate has"
            )
    return None


def is_unknown_name(error: BaseException) -> bool:
    """Tell whether ``error`` comes from a name that does not exist; who did not say is no proof."""
    return any(
        isinstance(one, socket.gaierror) and one.errno in _NO_SUCH_NAME for one in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all that it comes from."""
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        one = todo.pop()
        yield one
        seen.add(id(one))
        # azure-core and urllib3 each hide the cause in a place of their own.
        hidden = (getattr(one, name, None) for name in ("inner_exception", "reason"))
        inner = (one.__cause__, one.__context__, *hidden, *one.args)
        todo += [e for e in inner if isinstance(e, BaseException) and id(e) not in seen]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
