"""Where an artifact of several files is written: a directory that a reader sees whole, and never one over another."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from paceline.errors import OutputPathError
from paceline.profiles.atomic import make_directory, new_directory, replacing_directory


@contextmanager
def replaced_artifact(directory: Path, description_file: str) -> Generator[tuple[Path, Path | None]]:
    """Yield an empty directory that becomes `directory` at the end, and where the artifact there will be kept.

    The one there is copied to where it is kept, and then replaced in one step. An error inside leaves everything as it was.
    Raises OutputPathError as `require_artifact_path` does.
    """
    kept = require_artifact_path(directory, description_file)
    if kept is None:
        with new_directory(directory) as new:
            yield new, None
        return
    with replacing_directory(directory, kept) as new:
        yield new, kept


def require_artifact_path(directory: Path, description_file: str) -> Path | None:
    """Return where an artifact that stands at this path would be kept; None where nothing stands.

    An artifact is what holds its description file. Raises OutputPathError for a file, a directory that holds something else,
    and one that cannot be made.
    """
    try:
        make_directory(directory.parent)
        if not directory.exists() or (directory.is_dir() and next(directory.iterdir(), None) is None):
            return None
    except OSError as error:
        raise OutputPathError(directory, error.strerror or str(error)) from error
    description = directory / description_file
    if not description.is_file():
        raise OutputPathError(directory, f"it exists already and holds no {description_file}; it is left as it is")
    written = datetime.fromtimestamp(description.stat().st_mtime, UTC)
    return directory.with_name(f"{directory.name}-{written:%Y%m%dT%H%M%S.%fZ}")
