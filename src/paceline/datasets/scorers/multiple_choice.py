"""ScienceQA: which option letter a text names, by the parser of LLaVA's `eval_science_qa.py` at c121f043."""

import re

LETTERS = "ABCDE"
SENTENCE = re.compile(r"The answer is ([A-Z]).")


def chosen_option(prediction: str, num_choices: int) -> int | None:
    """Return the index of the option that a text names, None where it names none or one beyond `num_choices`.

    Accepted: exactly one letter; a letter, a period and a blank at the start; or one sentence `The answer is X.` A blank
    before or after a bare letter is not forgiven. The script that came with the data set guesses where nothing parses;
    this one never does.
    """
    letter = _letter(prediction)
    index = LETTERS[:num_choices].find(letter) if letter else -1
    return None if index < 0 else index


def multiple_choice(prediction: str, *, answer: int, num_choices: int) -> float:
    """Return 1 where the text names the option of index `answer`, else 0."""
    return float(chosen_option(prediction, num_choices) == answer)


def _letter(prediction: str) -> str | None:
    if len(prediction) == 1 and prediction in LETTERS:
        return prediction
    if len(prediction) >= 3 and prediction[0] in LETTERS and prediction[1:3] == ". ":
        return prediction[0]
    named = SENTENCE.findall(prediction)
    return named[0] if len(named) == 1 else None
