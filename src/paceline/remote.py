"""The address of a server that speaks OpenAI's HTTP interface, and connections to it; standard library only."""

import http.client
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from paceline.errors import InvalidValueError

EXPECTED = "the address of a server, for example http://127.0.0.1:8000"
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Where a server is; `prefix` stands before its paths, empty for most."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> "ServerAddress":
        """Return the address that a URL names, `/v1` at its end or not; raises InvalidValueError for what is none."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidValueError("URL", url, EXPECTED) from error
        if parts.scheme not in DEFAULT_PORTS or not host or re.search(r"[\x00-\x20\x7f]", url.strip()):
            raise InvalidValueError("URL", url, EXPECTED)
        if parts.username is not None or parts.query or parts.fragment:
            raise InvalidValueError(
                "URL", f"{parts.scheme}://{host}…", f"{EXPECTED}, without a name, a key or a query in it"
            )
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(scheme=parts.scheme, host=host, port=port or DEFAULT_PORTS[parts.scheme], prefix=prefix)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.prefix}"

    def connection(self, *, timeout_seconds: float) -> http.client.HTTPConnection:
        """Return a connection, not yet opened; what it reads or connects to waits at most `timeout_seconds` each time."""
        of = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        return of(self.host, self.port, timeout=timeout_seconds)

    def path(self, path: str) -> str:
        """Return a path of the server as it is asked for."""
        return self.prefix + path


def reason_of(error: Exception) -> str:
    """Return in words why a server could not be reached or read."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
