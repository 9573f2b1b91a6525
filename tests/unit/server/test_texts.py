"""Texts of tokens, joined as they come: nothing is lost, doubled or handed on half, and a stop sequence cuts."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from paceline.server.texts import AnswerText


def joined(parts, stops=()):
    """The texts that are handed on for tokens that stand for these bytes."""
    text = AnswerText(lambda ids: b"".join(parts[i] for i in ids).decode("utf-8", "replace"), stops)
    handed = []
    for token in range(len(parts)):
        handed.append(text.add(token))
        if text.stopped:
            break
    return [*handed, text.rest()], text


def cut(data, places):
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[first:last] for first, last in pairwise(at)]


words = st.text(alphabet=st.sampled_from(list("ab \n.é€😀")), max_size=30)
places = st.lists(st.integers(0, 200), max_size=20)


@given(words, places)
@example("😀", [1, 2, 3])
@example("  a  ", [1])
def test_what_is_handed_on_is_the_whole_text_however_tokens_cut_it(said, cuts):
    handed, _ = joined(cut(said.encode(), cuts))
    assert "".join(handed) == said.strip()
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in handed)


@given(words, places, st.lists(st.text(alphabet="ab. ", min_size=1, max_size=3), min_size=1, max_size=2))
@example("ab.ab", [2, 3], ["."])
@example("a bab", [1, 2, 3, 4], ["bb", "ab"])
def test_an_answer_ends_before_its_first_stop_sequence(said, cuts, stops):
    handed, text = joined(cut(said.encode(), cuts), stops)
    found = [place for stop in stops if (place := said.strip().find(stop)) >= 0]
    if text.stopped:
        assert "".join(handed) == said.lstrip()[: len("".join(handed))]
        assert not any(stop in "".join(handed) for stop in stops)
    elif not any(stop in said for stop in stops):
        assert "".join(handed) == said.strip()
    else:  # only spaces at the ends held the stop sequence
        assert not found


def test_bytes_that_never_become_a_letter_are_told_at_the_end():
    handed, _ = joined([b"a", b"\xf0\x9f"])
    assert handed == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_a_stop_sequence_across_tokens_is_held_back_until_it_is_whole():
    handed, text = joined([b"yes", b" E", b"N", b"D no"], ["END"])
    assert handed == ["yes", "", "", "", ""] and text.stopped
    handed, text = joined([b"yes", b" E", b"N", b"C"], ["END"])
    assert "".join(handed) == "yes ENC" and not text.stopped
