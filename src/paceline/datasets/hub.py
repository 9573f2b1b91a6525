"""The files of a data set on the hub. This is the one place that imports Hugging Face `datasets`."""

import re

from paceline.datasets.public.description import PublicSet
from paceline.datasets.sources import HubPlace, SetFiles
from paceline.errors import DatasetError, MissingExtraError

try:
    from datasets import load_dataset_builder
except ImportError as missing:
    raise MissingExtraError("datasets", "data") from missing

STORE = "hf://datasets/"  # where `datasets` says that a repository's own files are
COMMIT = re.compile(r"@([0-9a-f]{40})/")


def hub_files(public: PublicSet, place: HubPlace, split: str) -> SetFiles:
    """Return the URLs of a split's Parquet files, at the commit that the revision stands for.

    Raises DatasetError where the hub cannot be reached, or the repository has no such split.
    """
    hub_id = place.hub_id or public.hub_ids[0]
    name = f"hub:{hub_id}" + (f"@{place.revision}" if place.revision else "")
    try:
        config = public.config if hub_id in public.hub_ids else None  # another repository has names of its own
        builder = load_dataset_builder(hub_id, config, revision=place.revision)
    except (OSError, ValueError, RuntimeError) as error:  # of the network, of the hub, of what the repository holds
        raise DatasetError(
            name,
            f"cannot be opened ({(str(error).splitlines() or [type(error).__name__])[0]})",
            expected=f"a repository with these columns, such as {' or '.join(public.hub_ids)}, that can be reached",
            mend=f"without a network, name a folder of its Parquet files: {public.name}=FOLDER",
        ) from error
    by_split = dict(builder.config.data_files or {})
    files = tuple(str(each) for each in by_split.get(split, ()))
    if not files or not all(file.endswith(".parquet") for file in files):
        held = ", ".join(map(str, by_split)) or "none"
        raise DatasetError(name, f"has the splits {held}", expected=f"Parquet files of the split {split}")
    elsewhere = [file for file in files if "://" in file and not file.startswith(f"{STORE}{hub_id}@")]
    if elsewhere:  # a repository says which files it has: any address, were it followed
        raise DatasetError(name, f"names the file {elsewhere[0]!r}", expected="files of its own")
    commit = COMMIT.search(files[0])
    return SetFiles(files=files, place=f"hub:{hub_id}", revision=commit[1] if commit else place.revision, split=split)
