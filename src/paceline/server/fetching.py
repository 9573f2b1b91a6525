"""Pictures at addresses that whoever runs the server allows, and no others: what a client names is never trusted.

The name is resolved once, every address it has must be public, and the connection goes to one of those: a name that means
something else a moment later changes nothing. A redirect is judged as a first address is.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, urljoin, urlsplit

from paceline.errors import InvalidValueError, RequestRefusedError

PORTS = {"http": 80, "https": 443}
REDIRECTS, MOST_REDIRECTS = (301, 302, 303, 307, 308), 3
PART_BYTES = 1 << 16
LONGEST_URL = 4096
# addresses that stand for IPv4 ones behind a translator (RFC 6052, RFC 8215)
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A scheme, a host, a port and a path, as they are compared."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def target(self) -> str:
        """What a request asks the host for."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def within(self, prefix: "Place") -> bool:
        """Tell whether this is at a prefix: the same host, and a path that goes on where the prefix's ends."""
        if (self.scheme, self.host, self.port) != (prefix.scheme, prefix.host, prefix.port):
            return False
        return self.path == prefix.path or self.path.startswith(prefix.path.rstrip("/") + "/")


def allowed_prefix(text: str) -> Place:
    """Return a prefix as `--allow-urls` gives it; raises InvalidValueError for what is none."""
    try:
        place = place_of(text)
    except RequestRefusedError as error:
        raise InvalidValueError("--allow-urls", text, "an address such as https://images.example.org/public") from error
    if place.query:
        raise InvalidValueError("--allow-urls", text, "an address without a query")
    return place


def place_of(url: str) -> Place:
    """Return where an address leads; raises RequestRefusedError for one that two readers may read in two ways."""
    plain = len(url) <= LONGEST_URL and url.isascii() and url.isprintable() and not set(' \\"<>^`{|}').intersection(url)
    try:
        parts = urlsplit(url) if plain else None
        port = None if parts is None else parts.port
    except ValueError:
        parts, port = None, None
    if parts is None or parts.scheme not in PORTS or not parts.hostname or parts.username is not None or _climbs(parts):
        raise _refused(url, "expected http:// or https://, a host and a plain path")
    path = parts.path or "/"
    host = parts.hostname.rstrip(".")
    return Place(scheme=parts.scheme, host=host, port=port or PORTS[parts.scheme], path=path, query=parts.query)


def _climbs(parts: SplitResult) -> bool:
    lowered = parts.path.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/")
    return any(step in ("..", ".") for step in lowered.split("/")) or "%25" in lowered


def public(text: str) -> bool:
    """Tell whether an address is one of the public Internet, whatever it is wrapped in."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    return all(each.is_global and not each.is_multicast for each in (address, *_wrapped(address)))


def _wrapped(address: Address) -> Iterable[ipaddress.IPv4Address]:
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in TRANSLATED):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """Fetches what is at allowed places; `fetch` may be called from many threads.

    `resolve` and `accepts` are what a name leads to and whether that may be connected to.
    """

    def __init__(
        self,
        prefixes: Iterable[Place],
        *,
        most_bytes: int,
        seconds: float = 10.0,
        resolve: Resolve = addresses,
        accepts: Callable[[str], bool] = public,
    ) -> None:
        self.prefixes, self.most_bytes, self.seconds = tuple(prefixes), most_bytes, seconds
        self._resolve, self._accepts = resolve, accepts
        self._tls = ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """Return what is at an address; raises RequestRefusedError (400) where it may not be asked or does not answer."""
        ends = time.monotonic() + self.seconds
        for _ in range(MOST_REDIRECTS + 1):
            place = place_of(url)
            if not any(place.within(prefix) for prefix in self.prefixes):
                raise _refused(url, "this server fetches pictures from the addresses that it allows alone")
            found = self._asked(place, url, ends)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _refused(url, f"it leads on more than {MOST_REDIRECTS} times")

    def _asked(self, place: Place, url: str, ends: float) -> bytes | str:
        """Return the body at a place, or where it leads on to."""
        try:
            with self._connected(place, url, ends) as connection:
                connection.request("GET", place.target, headers={"accept": "image/*", "accept-encoding": "identity"})
                with connection.getresponse() as response:
                    if response.status in REDIRECTS:
                        return response.getheader("location") or ""
                    if response.status != 200:
                        raise _refused(url, f"it answers {response.status}")
                    return self._body(response, connection, url, ends)
        except (OSError, HTTPException, UnicodeError) as error:
            raise _refused(url, f"it cannot be fetched ({type(error).__name__})") from error

    @contextmanager
    def _connected(self, place: Place, url: str, ends: float) -> Generator[HTTPConnection]:
        """Give a connection that is broken off when the time is over: its timeouts start anew with every letter that comes."""
        found = self._resolve(place.host, place.port)
        if not found or not all(self._accepts(address) for address in found):
            raise _refused(url, "its host is not one of the public Internet")
        of = HTTPSConnection if place.scheme == "https" else HTTPConnection
        connection = of(place.host, place.port, timeout=_left(ends))
        plain = socket.create_connection((found[0], place.port), _left(ends))
        connection.sock, same = plain, plain.dup()
        breaking_off = threading.Timer(max(0.0, ends - time.monotonic()), _break_off, (same,))
        breaking_off.start()
        try:
            if place.scheme == "https":
                connection.sock = self._tls.wrap_socket(plain, server_hostname=place.host)
            yield connection
        finally:
            breaking_off.cancel()
            same.close()
            connection.close()

    def _body(self, response: HTTPResponse, connection: HTTPConnection, url: str, ends: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(_left(ends))
            part = response.read1(PART_BYTES)
            _left(ends)
            if not part and response.length:
                raise HTTPException(f"{response.length} bytes are missing")
            if not part:
                return b"".join(parts)
            size += len(part)
            if size > self.most_bytes:
                raise _refused(url, f"it has more than {self.most_bytes:,} bytes")
            parts.append(part)


def _break_off(connection: socket.socket) -> None:
    with suppress(OSError):  # it is over already
        connection.shutdown(socket.SHUT_RDWR)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _refused(url: str, said: str) -> RequestRefusedError:
    shown = url if len(url) <= 80 else f"{url[:80]}…"
    return RequestRefusedError(f"the picture at {shown!r}: {said}", code="invalid_image_url", param="messages")
