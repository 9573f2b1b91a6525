"""The page's files by the path at which a server answers with them, and the headers that go with each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
INDEX = "index.html"
PREFIX = "/page/"
LARGEST_PAGE_BYTES = 300_000  # all files together
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# nothing but the server itself is asked, and no script or style stands in the markup
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file of a page as it is answered; `own_policy` where it says itself what may run in it, as reports do."""

    content: bytes
    media_type: str
    own_policy: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, lower case."""
        return {
            "content-type": self.media_type,
            "content-length": str(len(self.content)),
            "content-security-policy": "frame-ancestors 'none'" if self.own_policy else CONTENT_SECURITY_POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-cache",
        }


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return every file of the page by its path: the page itself at `/`, the rest below `/page/`."""
    return {
        "/" if path.name == INDEX else f"{PREFIX}{path.name}": PageFile(
            content=path.read_bytes(), media_type=MEDIA_TYPES[path.suffix]
        )
        for path in sorted(ASSETS.iterdir())
    }
