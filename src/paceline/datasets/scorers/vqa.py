"""VQA accuracy as its two official scripts compute it, each with its own normalisation of text.

- `vqa_accuracy`: GT-Vision-Lab/VQA, `vqaEval.py` at a013f004. When all answers of a question are equal it normalises
  nothing at all, so `Yes` against ten `yes` scores 0.
- `vqa_accuracy_normalised`: the same with normalisation always. Not the official rule, but what most harnesses report.
- `text_vqa_accuracy`: facebookresearch/mmf, `TextVQAAccuracyEvaluator` at b0ffc7fb. It normalises always, and treats
  commas, question marks and possessives in a way of its own.

People are told apart by their position among the answers, never by equal text. The score is the mean, over the subsets
that leave one person out, of min(1, matching answers / 3).
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

# removed beside a blank, or anywhere in a text that has a comma between digits; else a blank takes their place
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"[0-9],[0-9]")
PERIOD = re.compile(r"\.(?![0-9])")
PERIODS_REMOVED = 32  # at most: the scripts pass a flag of that value where a count belongs
ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
# the scripts' table of contractions, those entries aside that change nothing or can never match (keys with capitals)
_PAIRS = """
'ow'sat:'ow's'at 'ows'at:'ow's'at aint:ain't arent:aren't cant:can't couldn'tve:couldn't've couldnt:couldn't
couldnt've:couldn't've couldve:could've didnt:didn't doesnt:doesn't dont:don't hadn'tve:hadn't've hadnt:hadn't
hadnt've:hadn't've hasnt:hasn't havent:haven't he'dve:he'd've hed:he'd hed've:he'd've hes:he's howd:how'd
howll:how'll hows:how's isnt:isn't it'dve:it'd've itd:it'd itd've:it'd've itll:it'll maam:ma'am
mightn'tve:mightn't've mightnt:mightn't mightnt've:mightn't've mightve:might've mustnt:mustn't mustve:must've
neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at shant:shan't she'dve:she'd've
shed've:she'd've shouldn'tve:shouldn't've shouldnt:shouldn't shouldnt've:shouldn't've shouldve:should've
somebody'd:somebodyd somebody'dve:somebody'd've somebodyd've:somebody'd've somebodyll:somebody'll
somebodys:somebody's someone'dve:someone'd've someoned:someone'd someoned've:someone'd've someonell:someone'll
someones:someone's something'dve:something'd've somethingd:something'd somethingd've:something'd've
somethingll:something'll thats:that's there'dve:there'd've thered:there'd thered've:there'd've therere:there're
theres:there's they'dve:they'd've theyd:they'd theyd've:they'd've theyll:they'll theyre:they're theyve:they've
twas:'twas wasnt:wasn't we'dve:we'd've wed've:we'd've werent:weren't weve:we've whatll:what'll whatre:what're
whats:what's whatve:what've whens:when's whered:where'd wheres:where's whereve:where've who'dve:who'd've
whod:who'd whod've:who'd've wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't
wouldn'tve:wouldn't've wouldnt:wouldn't wouldnt've:wouldn't've wouldve:would've y'all'dve:y'all'd've
y'alld've:y'all'd've y'allll:y'all'll yall:y'all yall'd've:y'all'd've yall'll:y'all'll you'dve:you'd've
youd:you'd youd've:you'd've youll:you'll youre:you're youve:you've
"""
CONTRACTIONS = {wrong: right for wrong, _, right in (pair.partition(":") for pair in _PAIRS.split())}
CACHED_TEXTS = 65_536  # the same ten answers come back under every configuration

Normalise = Callable[[str], str]


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the score in 0 to 1 by the official script: raw texts are compared where all `answers` are equal."""
    stripped = [_one_line(answer) for answer in answers]
    if len(set(stripped)) == 1:
        return _leave_one_out(_one_line(prediction), stripped)
    return vqa_accuracy_normalised(prediction, answers)


def vqa_accuracy_normalised(prediction: str, answers: Sequence[str]) -> float:
    """Return the score in 0 to 1 with both sides always normalised; not what the official script does."""
    return _leave_one_out(vqa_normalised(prediction), [vqa_normalised(answer) for answer in answers])


def text_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the score in 0 to 1 by mmf's rule for TextVQA."""
    return _leave_one_out(text_vqa_normalised(prediction), [text_vqa_normalised(answer) for answer in answers])


@lru_cache(maxsize=CACHED_TEXTS)
def vqa_normalised(text: str) -> str:
    """Return a text without signs, articles and number words, contractions mended, words apart by one blank."""
    return _words_mended(_without_signs(_one_line(text)))


@lru_cache(maxsize=CACHED_TEXTS)
def text_vqa_normalised(text: str) -> str:
    """Return a text normalised as mmf does: commas and question marks go first, and a possessive stands apart."""
    tidied = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words_mended(_without_signs(_one_line(tidied)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_signs(text: str) -> str:
    removes_all = COMMA_IN_NUMBER.search(text) is not None
    kept = text
    for sign in SIGNS:
        if sign in text:
            beside_blank = f"{sign} " in text or f" {sign}" in text
            kept = kept.replace(sign, "" if removes_all or beside_blank else " ")
    return PERIOD.sub("", kept, count=PERIODS_REMOVED)


def _words_mended(text: str) -> str:
    words = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Return the mean over people of min(1, matches among the others / 3); 0 without answers."""
    matches = sum(answer == prediction for answer in answers)
    if not matches:
        return 0.0
    of_matching, of_others = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * of_matching + (len(answers) - matches) * of_others) / len(answers)
