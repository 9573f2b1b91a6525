"""From a request to token ids: the chat template, and each picture's placeholder grown to its plan's tokens.

What stands between is the written prompt: the template's text, with the family's placeholder where a picture will stand.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from paceline.errors import InvalidValueError, ModelError
from paceline.models.chats import Message, in_parts, missing_texts, texts_of
from paceline.models.families.choosing import image_token_id
from paceline.models.families.family import Family
from paceline.models.families.plans import ImagePlan

PICTURE_NUMBER = "{picture}"  # in a marker: the number of the picture in its prompt, from 0
# what transformers itself takes beside the arguments that it hands on to the template
OWN_ARGUMENTS = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {
    "tools",
    "documents",
}


class Prompts:
    """Writes the prompts of one model and counts their tokens, with its tokenizer and its family's layout.

    `template_arguments` go to the chat template of every prompt, for example `enable_thinking`.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        family: Family,
        config: PreTrainedConfig,
        name: str,
        template_arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer, self.family, self.config, self.name = tokenizer, family, config, name
        self.image_token = self._token(image_token_id(config))
        self.placeholder = family.placeholder or self.image_token
        self._reserved = tuple(dict.fromkeys((*tokenizer.all_special_tokens, self.image_token, self.placeholder)))
        self._marker_tokens: dict[str, int] = {}
        self._require_template()
        self.template_arguments = self._checked(template_arguments or {})
        self._check_template()

    def question(self, question: str) -> str:
        """Return the written prompt of a question about one picture.

        Raises InvalidValueError when the question is empty or holds one of the model's special tokens.
        """
        if not question.strip():
            raise InvalidValueError("prompt", question, "a question about the picture")
        self._check_text(question)
        return self._written(question)

    def chat(self, messages: Sequence[Message], pictures: int, arguments: Mapping[str, object]) -> str:
        """Return the written prompt of an opened chat with so many pictures; `arguments` go before the model's own.

        Raises InvalidValueError for a text that holds one of the model's special tokens and for messages that the template
        refuses, and ModelError for a family that has no chat template or one that writes other than one placeholder a
        picture.
        """
        if self.family.prompt is not None:
            raise ModelError(
                "this family has no chat template: it answers one question about one picture; ask it by prompt"
            )
        for text in texts_of(messages):
            self._check_text(text)
        arguments = {**self.template_arguments, **self._checked(arguments)}
        written = self._templated(messages, arguments)
        if missing_texts(messages, written):
            written = self._templated(in_parts(messages), arguments)
        for text in missing_texts(messages, written):
            raise InvalidValueError(
                "messages", text, f"texts that the chat template of {self.name!r} writes; it leaves this one out"
            )
        found = written.count(self.placeholder)
        if found != pictures:
            raise ModelError(
                f"the chat template writes {self.placeholder!r} {found} times for a chat with {pictures} pictures; expected as "
                "many: take the chat template that belongs to the model's image processor"
            )
        return written

    def ids(self, written: str, plans: Sequence[ImagePlan]) -> list[int]:
        """Return the token ids of a written prompt with its pictures, in their order."""
        return self._tokenized(self._filled(written, [self._layout(plan, index) for index, plan in enumerate(plans)]))

    def text_tokens(self, written: str) -> int:
        """Return the tokens of a written prompt, its pictures left out."""
        shortened = written.replace(self.placeholder, self.image_token)
        return len(self._tokenized(shortened)) - written.count(self.placeholder)

    def picture_tokens(self, written: str, plans: Sequence[ImagePlan], text_tokens: int) -> int:
        """Return the tokens that the pictures will bring into a prompt: their image tokens and the family's markers.

        Each run of image tokens is written as one, and counted: a prompt takes no longer to look at than it is long.
        """
        layouts = [self._layout(plan, index) for index, plan in enumerate(plans)]
        image_tokens = sum(plan.tokens for plan in plans)
        if not any(isinstance(part, str) for parts in layouts for part in parts):
            return image_tokens
        runs = [[part if isinstance(part, str) else 1 for part in parts] for parts in layouts]
        shortened = sum(isinstance(part, int) for parts in runs for part in parts)
        return len(self._tokenized(self._filled(written, runs))) - shortened + image_tokens - text_tokens

    def cost(self, plan: ImagePlan, number: int = 0) -> int:
        """Return at most how many tokens a plan brings into the prompt as the picture of this number, from 0; neighbouring
        markers may yet merge into fewer."""
        return sum(part if isinstance(part, int) else self._tokens_of(part) for part in self._layout(plan, number))

    def _filled(self, written: str, layouts: Sequence[Sequence[str | int]]) -> str:
        first, *others = written.split(self.placeholder)
        shown = (
            "".join(part if isinstance(part, str) else self.image_token * part for part in parts) for parts in layouts
        )
        return first + "".join(picture + text for picture, text in zip(shown, others, strict=True))

    def _layout(self, plan: ImagePlan, number: int) -> list[str | int]:
        parts = self.family.layout(plan)
        return [
            self._marker(part).replace(PICTURE_NUMBER, str(number)) if isinstance(part, str) else part for part in parts
        ]

    def _marker(self, marker: str) -> str:
        """Return a marker's text; `@name` is the token whose id the configuration has under that name."""
        return self.tokenizer.convert_ids_to_tokens(getattr(self.config, marker[1:])) if marker[0] == "@" else marker

    def _tokens_of(self, marker: str) -> int:
        if marker not in self._marker_tokens:
            self._marker_tokens[marker] = len(self._tokenized(marker))
        return self._marker_tokens[marker]

    def _tokenized(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _check_text(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair: what a shell hands on of bytes that are no text
            raise InvalidValueError("prompt", text, "text that UTF-8 can hold") from error
        special = [token for token in self._reserved if token in text]
        if special:
            raise InvalidValueError("prompt", text, f"text without the model's special token {special[0]!r}")

    def _checked(self, arguments: Mapping[str, object]) -> dict[str, object]:
        """Return the template's arguments; one that it does not read would change nothing, without an error."""
        template = str(self.tokenizer.chat_template)
        for name in arguments:
            if self.family.prompt is not None:
                raise InvalidValueError("template argument", name, f"none: {self.name!r} has no chat template")
            if name in OWN_ARGUMENTS or not name.isidentifier() or not re.search(rf"\b{name}\b", template):
                raise InvalidValueError(
                    "template argument", name, f"a name that the chat template of {self.name!r} reads"
                )
        return dict(arguments)

    def _written(self, question: str) -> str:
        if self.family.prompt is not None:
            return self.family.prompt(self.tokenizer, self.placeholder, question)
        content: Sequence[dict[str, str]] = [{"type": "image"}, {"type": "text", "text": question}]
        return self._templated([{"role": "user", "content": content}], self.template_arguments)

    def _templated(self, messages: Sequence[Message], arguments: Mapping[str, object]) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, **arguments
            )
        except TemplateError as error:
            raise InvalidValueError(
                "messages",
                [message["role"] for message in messages],
                f"roles and contents that the chat template of {self.name!r} takes; it says: {error}",
            ) from error

    def _token(self, token_id: int) -> str:
        token: str | None = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            raise ModelError(
                f"the tokenizer of {self.name!r} has no token {token_id}, which stands for a picture in the model's "
                "configuration; expected tokenizer.json and tokenizer_config.json of the same checkpoint beside its weights"
            )
        return token

    def _require_template(self) -> None:
        if self.family.prompt is None and not self.tokenizer.chat_template:
            raise ModelError(
                f"the model {self.name!r} has no chat template; expected one beside its tokenizer "
                "(chat_template.jinja): take that of the instruction-tuned model it comes from"
            )

    def _check_template(self) -> None:
        found = self._written("a").count(self.placeholder)
        if found != 1:
            raise ModelError(
                f"the chat template of {self.name!r} writes {self.placeholder!r} {found} times for one picture; expected once: "
                "take the chat template that belongs to the model's image processor"
            )
