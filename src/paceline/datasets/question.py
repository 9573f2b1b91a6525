"""One visual question with its reference answer: what every loader yields and every scorer reads."""

from dataclasses import dataclass, field

from PIL import Image

from paceline.records import MetadataValue


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualQuestion:
    """A picture, a prompt and the reference answers, under an id that never changes between runs."""

    sample_id: str
    dataset: str
    picture: Image.Image = field(repr=False, compare=False)
    prompt: str
    references: tuple[str, ...]
    metadata: dict[str, MetadataValue] = field(default_factory=dict[str, "MetadataValue"])
