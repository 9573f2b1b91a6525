"""One visual question with its reference answers: what every loader yields and every scorer reads."""

import hashlib
from dataclasses import dataclass, field

from PIL import Image

from paceline.datasets.picture_source import PictureSource, side_by_side
from paceline.errors import InvalidValueError
from paceline.records import MetadataValue

PICTURE_KEY, TYPES_KEY = "picture", "types"  # in a sample's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualQuestion:
    """Pictures, a prompt as it is sent and the reference answers, under an id that never changes between runs.

    `scorer` names the rule and its version, for example `vqa/1`. `choices` are the options of a multiple-choice question.
    `picture_id` tells which questions share a picture; None where none do. `types` are what the set divides its questions
    by, as `column=value`.
    """

    sample_id: str
    dataset: str
    pictures: tuple[PictureSource, ...] = field(repr=False)
    prompt: str
    references: tuple[str, ...]
    scorer: str
    choices: tuple[str, ...] = ()
    picture_id: str | None = None
    types: tuple[str, ...] = ()
    metadata: dict[str, MetadataValue] = field(default_factory=dict[str, "MetadataValue"])

    def __post_init__(self) -> None:
        if not self.pictures:
            raise InvalidValueError("pictures", (), "at least one picture a question")

    @property
    def picture(self) -> Image.Image:
        """Open the picture, anew at every call; several are set side by side."""
        return side_by_side([each.open() for each in self.pictures])

    @property
    def picture_sha256(self) -> str:
        """The hash of the pictures; of several, that of their hashes."""
        hashes = [each.sha256() for each in self.pictures]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @property
    def prompt_sha256(self) -> str:
        """The hash of the prompt as it is sent."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    @property
    def stored_metadata(self) -> dict[str, MetadataValue]:
        """What a profile keeps with each sample: the question's own metadata, its picture's id and its types."""
        picture: dict[str, MetadataValue] = {} if self.picture_id is None else {PICTURE_KEY: self.picture_id}
        types: dict[str, MetadataValue] = {TYPES_KEY: list(self.types)} if self.types else {}
        return {**self.metadata, **picture, **types}
