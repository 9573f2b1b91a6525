"""MMMU: multiple-choice and open answers, by the rules of its `eval_utils.py` at bb0b95a9, without the random guess.

The official script draws a random option where a multiple-choice answer does not parse; here that is no answer, score 0.
"""

import re
from collections.abc import Sequence

TRIMMED = (",", ".", "!", "?", ";", ":", "'")  # one after another, in this order
WORDS_OF_A_SENTENCE = 5  # with more, an option's own text is looked for
BEFORE_AN_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
SIGNS_ALONE = frozenset({":", ",", ".", "!", "?", ";", "'"})
NUMBER_FORMS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
SUBJECTS_OF_DOMAIN = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
PARTS = re.compile(r"\.\s(?=[A-Z])|\n")


def option_letters(count: int) -> str:
    """Return the letters of `count` options: A, B, C, …"""
    return "".join(chr(ord("A") + index) for index in range(count))


def chosen_letter(prediction: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a text names, None where it names none.

    Looked for in turn: a letter in round brackets; a letter between blanks; in more than five words, an option's text.
    Of several the one that is named last.
    """
    text = prediction
    for sign in TRIMMED:
        text = text.strip(sign)
    text = f" {text} "
    letters = option_letters(len(options))
    for form in ("({})", " {} "):
        found = _last_named(text, {letter: form.format(letter) for letter in letters})
        if found:
            return found
    if len(text.split()) <= WORDS_OF_A_SENTENCE:
        return None
    return _last_named(text.lower(), dict(zip(letters, (option.lower() for option in options), strict=True)))


def _last_named(text: str, names: dict[str, str]) -> str | None:
    found = {letter: text.rfind(name) for letter, name in names.items() if name in text}
    return max(found, key=lambda letter: found[letter]) if found else None


def open_candidates(prediction: str) -> set[float | str]:
    """Return what a text may be answering: its last clauses, and the numbers in them rounded to two digits."""
    clauses = _answering_clauses(prediction.strip().strip(".").lower())
    numbers = [number for clause in clauses for form in NUMBER_FORMS for number in form.findall(clause)]
    return {value for text in (*clauses, *numbers) for value in normalised_answer(text)}


def _answering_clauses(text: str) -> list[str]:
    parts = PARTS.split(text)
    clauses: list[str] = []
    for part in parts:
        markers = (*BEFORE_AN_ANSWER, "=") if part is parts[-1] else BEFORE_AN_ANSWER
        ends = [part.split(marker)[-1].strip() for marker in markers if marker in part]
        clause = _first_shortest(ends)
        if clause and clause not in SIGNS_ALONE:
            clauses.append(clause)
    return clauses or [text]


def _first_shortest(ends: list[str]) -> str:
    shortest = ""
    for end in ends:  # an empty one is replaced by whatever comes next, as in the script
        if not shortest or len(end) < len(shortest):
            shortest = end
    return shortest


def normalised_answer(text: str) -> list[float | str]:
    """Return a number rounded to two digits, or the text in lower case; one sign alone is looked for beside a blank."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        return [round(number, 2)]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def mmmu_choice(prediction: str, *, answers: Sequence[str], options: Sequence[str]) -> float:
    """Return 1 where the text names an option whose letter is one of `answers`, else 0."""
    return float(chosen_letter(prediction, options) in answers)


def mmmu_open(prediction: str, *, answers: Sequence[str]) -> float:
    """Return 1 where one of `answers` is among what the text may be answering: equal as a number, contained as a text."""
    gold = [value for answer in answers for value in normalised_answer(answer)]
    return float(any(_matches(said, gold) for said in open_candidates(prediction)))


def _matches(said: float | str, gold: Sequence[float | str]) -> bool:
    if isinstance(said, str):
        return any(isinstance(each, str) and each in said for each in gold)
    return said in gold
