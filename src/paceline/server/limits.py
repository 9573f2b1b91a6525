"""What a client may ask of a server at most, in one place."""

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one server; bodies and headers in bytes, pictures of one request together in pixels."""

    body_bytes: int = 20 * MEBIBYTE
    bodies_bytes: int = 512 * MEBIBYTE  # of all requests that are being received, waiting or answered
    pictures: int = 16
    pixels: int = 40_000_000
    json_depth: int = 64
    json_objects: int = 100_000  # arrays and objects: each is made where all requests wait
    headers: int = 100
    headers_bytes: int = 32 * 1024
    connections: int = 1000
    waiting: int = 256
    header_seconds: float = 10.0  # from the first byte of a request, or from the connection, to its last header
    body_seconds: float = 60.0  # from there to the last byte of the body
    send_seconds: float = 60.0  # for a client to take what was written
    grace_seconds: float = 30.0  # for the answer that runs when the server is told to stop
