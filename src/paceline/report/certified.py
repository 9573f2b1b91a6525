"""The certificate of a profile on its page: what is certain, for which mix, and the counts behind it."""

from html import escape
from pathlib import Path

from paceline.control import LookupTable
from paceline.control.certificate import Certificate, CertifiedClaim
from paceline.report.parts import table

CERTIFIED_TABLE = "table.json"
COLUMNS = (
    "configuration",
    "verdict",
    "points lost",
    "questions",
    "broken",
    "mended",
    "bound (ms)",
    "requests over it",
)


def certificate_section(source: Path) -> str:
    """Return the section of a store's certificate; nothing for a profile without one."""
    path = source / CERTIFIED_TABLE
    held = LookupTable.load(path).certificate if source.is_dir() and path.is_file() else None
    if held is None:
        return ""
    return (
        '<section aria-labelledby="certificate-title"><h2 id="certificate-title">What is certified</h2>'
        f"<p>{escape(_sentence(held))}</p>{table(COLUMNS, [_row(claim) for claim in held.claims])}</section>"
    )


def _sentence(certificate: Certificate) -> str:
    mix = ", ".join(f"{count:,} of {name}" for name, count in certificate.mix.items())
    stopped = f" {certificate.stopped}." if certificate.stopped else ""
    return (
        f"{certificate.sentence}.{stopped} About a mix of {mix}; {certificate.choosing_questions:,} other questions chose the "
        f"sequence, which was fixed before the first certifying answer (plan {certificate.plan_sha256[:12]})."
    )


def _row(claim: CertifiedClaim) -> tuple[str, ...]:
    return (
        claim.config.key,
        claim.verdict,
        f"{100 * claim.mean_loss:+.2f}",
        f"{claim.asked:,}",
        f"{claim.broken:,}",
        f"{claim.mended:,}",
        f"{claim.bound_ms:.1f}",
        f"{claim.exceeded:,} of {claim.requests:,}",
    )
