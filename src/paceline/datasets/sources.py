"""Where a public set is read: what a user names, and the Parquet files that it stands for."""

from dataclasses import dataclass
from pathlib import Path

from paceline.datasets.public.description import PublicSet
from paceline.errors import DatasetError, InvalidValueError, UnknownChoiceError

HUB = "hub"
GRAMMAR = "NAME=FOLDER, NAME=FILE.parquet, NAME=hub, NAME=hub@REVISION or NAME=hub:OWNER/ID@REVISION"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A repository of data sets on the hub; the set's first known one where `hub_id` is None."""

    hub_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFiles:
    """The Parquet files of one split in their order: paths or URLs. `revision` is the hub's commit, None for local files."""

    files: tuple[str, ...]
    place: str
    revision: str | None
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSet:
    """A set with the files it is read from and how it is asked; `prompt_template` None takes the set's own."""

    public: PublicSet
    files: SetFiles
    scorer: str
    prompt_template: str | None = None


def parse_place(text: str) -> HubPlace | Path:
    """Read what stands after `NAME=`: a local path, or `hub` with the repository and the revision that are wanted."""
    where, _, revision = text.partition("@")
    if where == HUB or where.startswith(f"{HUB}:"):
        hub_id = where.removeprefix(HUB).removeprefix(":") or None
        if text.endswith("@") or (hub_id is None and ":" in where) or (hub_id is not None and hub_id.count("/") != 1):
            raise InvalidValueError("place of a data set", text, GRAMMAR)
        return HubPlace(hub_id=hub_id, revision=revision or None)
    if not text:
        raise InvalidValueError("place of a data set", text, GRAMMAR)
    return Path(text)


def chosen_split(public: PublicSet, split: str | None) -> str:
    """Return the split to ask, the set's own where none is named; refuses by name one that holds no answers."""
    if split is None:
        return public.default_split
    if split in public.unanswered:
        raise DatasetError(
            public.name,
            f"the split {split!r} holds no answers",
            expected=f"{' or '.join(public.splits)}, which can be scored",
            mend="name one with --split",
        )
    if split not in public.splits:
        raise UnknownChoiceError(f"split of {public.name}", split, tuple(public.splits))
    return split


def local_files(public: PublicSet, path: Path, split: str) -> SetFiles:
    """Return the Parquet files of a split below a folder, or the one that `path` is.

    Those of a folder named as the set's hub config count where there is one. A file belongs to a split when its name
    begins with the split's, as on the hub (`validation-00000-of-00002.parquet`), or a folder above it is named so.
    """
    if path.is_file():
        if path.suffix != ".parquet":
            raise DatasetError(path, "is no Parquet file", expected="FILE.parquet or a folder of such files")
        return SetFiles(files=(str(path),), place=path.name, revision=None, split=split)
    if not path.is_dir():
        raise DatasetError(path, "does not exist", expected=f"a folder or file of {public.name}: {GRAMMAR}")
    part = path / public.config if public.config and (path / public.config).is_dir() else path
    found = sorted(part.rglob("*.parquet"))
    files = [each for each in found if _split_of(each, part, public) == split]
    if not files:
        problem, expected = _nothing_found(public, part, found, split)
        raise DatasetError(path, problem, expected=expected)
    return SetFiles(files=tuple(map(str, files)), place=path.resolve().name, revision=None, split=split)


def _split_of(file: Path, part: Path, public: PublicSet) -> str | None:
    """Return which of the set's splits a file belongs to: the longest name that fits, for `test` begins `testdev` too."""
    names = (file.stem, *file.relative_to(part).parent.parts)
    known = [*public.splits, *public.unanswered]
    fitting = [split for split in known if any(name == split or _begins(name, split) for name in names)]
    return max(fitting, key=len, default=None)


def _begins(name: str, split: str) -> bool:
    return name.startswith(split) and not name[len(split)].isalnum()


def _nothing_found(public: PublicSet, part: Path, found: list[Path], split: str) -> tuple[str, str]:
    if not found and any(part.rglob("*.arrow")):
        return "holds Arrow files, as save_to_disk writes them", "Parquet files; write them with Dataset.to_parquet"
    held = sorted({name for file in found if (name := _split_of(file, part, public))})
    names = f"files of {', '.join(held)}" if held else ", ".join(file.name for file in found[:3]) or "no Parquet file"
    return f"holds {names}", f"Parquet files of the split {split}, named as on the hub: {split}-00000-of-00001.parquet"
