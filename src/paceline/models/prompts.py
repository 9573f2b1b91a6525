"""From a question to token ids: the chat template, and each picture's placeholder grown to its plan's tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from paceline.errors import InvalidValueError, ModelError
from paceline.models.families.choosing import image_token_id
from paceline.models.families.family import Family
from paceline.models.families.plans import ImagePlan

Message = Mapping[
    str, Any
]  # a role and its content: text, or parts of the types `text` and `image`, as transformers has them


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Return every text of a chat."""
    for message in messages:
        content = message["content"]
        yield from (
            [content] if isinstance(content, str) else (part["text"] for part in content if part["type"] == "text")
        )


def pictures_of(messages: Sequence[Message]) -> list[Any]:
    """Return every picture of a chat: what stands under `image` in its parts of that type."""
    contents = (message["content"] for message in messages if not isinstance(message["content"], str))
    return [part["image"] for content in contents for part in content if part["type"] == "image"]


class Prompts:
    """Writes the prompts of one model and counts their tokens, with its tokenizer and its family's layout."""

    def __init__(self, *, tokenizer: Any, family: Family, config: PreTrainedConfig, name: str) -> None:
        self.tokenizer, self.family, self.config = tokenizer, family, config
        self.image_token = self._token(image_token_id(config), name)
        self.placeholder = family.placeholder or self.image_token
        self._reserved = tuple(dict.fromkeys((*tokenizer.all_special_tokens, self.image_token, self.placeholder)))
        self._marker_tokens: dict[str, int] = {}
        self._check_template(name)

    def ids(self, question: str, plan: ImagePlan) -> list[int]:
        """Return the token ids of a question about one picture.

        Raises InvalidValueError when the question is empty or holds one of the model's special tokens.
        """
        return self._tokenized(self._text(question).replace(self.placeholder, self._picture(plan)))

    def chat_ids(
        self, messages: Sequence[Message], plan: ImagePlan | None, arguments: Mapping[str, object]
    ) -> tuple[list[int], int]:
        """Return the token ids of a chat and how many of them are text; `plan` is that of its picture, None without one.

        Raises InvalidValueError for a text that holds one of the model's special tokens, and ModelError for a family that has
        no chat template or one that writes other than one placeholder a picture.
        """
        if self.family.prompt is not None:
            raise ModelError(
                "this family has no chat template: it answers one question about one picture; ask it by prompt"
            )
        for text in texts_of(messages):
            self._check_text(text)
        written: str = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False, **arguments
        )
        found, expected = written.count(self.placeholder), int(plan is not None)
        if found != expected:
            raise ModelError(
                f"the chat template writes {self.placeholder!r} {found} times for a chat with {expected} pictures; expected as "
                "many: take the chat template that belongs to the model's image processor"
            )
        if plan is None:
            ids = self._tokenized(written)
            return ids, len(ids)
        ids = self._tokenized(written.replace(self.placeholder, self._picture(plan)))
        return ids, len(self._tokenized(written.replace(self.placeholder, self.image_token))) - 1

    def _picture(self, plan: ImagePlan) -> str:
        return "".join(part if isinstance(part, str) else self.image_token * part for part in self._layout(plan))

    def text_tokens(self, question: str) -> int:
        """Return the tokens of a question and its template, its picture left out."""
        return len(self._tokenized(self._text(question).replace(self.placeholder, self.image_token))) - 1

    def picture_tokens(self, question: str, plan: ImagePlan, text_tokens: int) -> int:
        """Return the tokens that a picture will bring into a prompt: its image tokens and the family's markers.

        Each run of image tokens is written as one, and counted: a prompt takes no longer to look at than it is long.
        """
        parts = self._layout(plan)
        if not any(isinstance(part, str) for part in parts):
            return plan.tokens
        shortened = "".join(part if isinstance(part, str) else self.image_token for part in parts)
        runs = sum(not isinstance(part, str) for part in parts)
        tokens = len(self._tokenized(self._text(question).replace(self.placeholder, shortened)))
        return tokens - runs + plan.tokens - text_tokens

    def cost(self, plan: ImagePlan) -> int:
        """Return at most how many tokens a plan brings into a prompt; neighbouring markers may yet merge into fewer."""
        return sum(part if isinstance(part, int) else self._tokens_of(part) for part in self._layout(plan))

    def _layout(self, plan: ImagePlan) -> list[str | int]:
        return [self._marker(part) if isinstance(part, str) else part for part in self.family.layout(plan)]

    def _marker(self, marker: str) -> str:
        """Return a marker's text; `@name` is the token whose id the configuration has under that name."""
        return self.tokenizer.convert_ids_to_tokens(getattr(self.config, marker[1:])) if marker[0] == "@" else marker

    def _tokens_of(self, marker: str) -> int:
        if marker not in self._marker_tokens:
            self._marker_tokens[marker] = len(self._tokenized(marker))
        return self._marker_tokens[marker]

    def _tokenized(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _text(self, question: str) -> str:
        if not question.strip():
            raise InvalidValueError("prompt", question, "a question about the picture")
        self._check_text(question)
        return self._written(question)

    def _check_text(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair: what a shell hands on of bytes that are no text
            raise InvalidValueError("prompt", text, "text that UTF-8 can hold") from error
        special = [token for token in self._reserved if token in text]
        if special:
            raise InvalidValueError("prompt", text, f"text without the model's special token {special[0]!r}")

    def _written(self, question: str) -> str:
        if self.family.prompt is not None:
            return self.family.prompt(self.tokenizer, self.placeholder, question)
        content: Sequence[dict[str, str]] = [{"type": "image"}, {"type": "text", "text": question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _token(self, token_id: int, name: str) -> str:
        token: str | None = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            raise ModelError(
                f"the tokenizer of {name!r} has no token {token_id}, which stands for a picture in the model's configuration; "
                "expected tokenizer.json and tokenizer_config.json of the same checkpoint beside its weights"
            )
        return token

    def _check_template(self, name: str) -> None:
        if self.family.prompt is None and not self.tokenizer.chat_template:
            raise ModelError(
                f"the model {name!r} has no chat template; expected one beside its tokenizer (chat_template.jinja): take that of "
                "the instruction-tuned model it comes from"
            )
        found = self._written("a").count(self.placeholder)
        if found != 1:
            raise ModelError(
                f"the chat template of {name!r} writes {self.placeholder!r} {found} times for one picture; expected once: take "
                "the chat template that belongs to the model's image processor"
            )
