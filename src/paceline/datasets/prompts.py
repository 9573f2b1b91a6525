"""Prompt templates: the text around a question, with a few named fields in it."""

from string import Formatter

from paceline.datasets.public.description import Asked
from paceline.datasets.scorers.mmmu import option_letters
from paceline.errors import InvalidValueError

FIELDS = ("question", "options", "context")


def checked_template(template: str) -> str:
    r"""Return a template given by a user, `\n` in it a line break; raises InvalidValueError for a field there is not.

    `{question}` is the question, `{options}` its options as `A. …`, a line each, `{context}` what the set tells beforehand.
    """
    expected = f"text with {', '.join(f'{{{name}}}' for name in FIELDS)} in it, and {{{{ }}}} for braces"
    text = template.replace("\\n", "\n")
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise InvalidValueError("prompt template", template, f"{expected} ({error})") from error
    for _literal, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            raise InvalidValueError("prompt template", template, expected)
    if not text.strip():
        raise InvalidValueError("prompt template", template, expected)
    return text


def prompt_of(asked: Asked, template: str) -> str:
    """Return the text that is sent with the picture."""
    letters = option_letters(len(asked.choices))
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, asked.choices, strict=True))
    return template.format(question=asked.question, options=options, context=asked.context)
