"""Which texts of a chat a written prompt lacks."""

from hypothesis import given
from hypothesis import strategies as st

from paceline.models.chats import missing_texts

WORDS = st.lists(st.sampled_from(["a", "b", "ab", " a ", "ba", "aab", ""]), max_size=6)


@given(texts=WORDS, written=st.lists(st.sampled_from(["a", "b", "|"]), max_size=12).map("".join))
def test_a_text_is_missing_where_the_prompt_holds_it_nowhere_in_whatever_order(texts, written):
    messages = [{"role": "user", "content": text} for text in texts]
    assert missing_texts(messages, written) == [text for text in texts if text.strip() not in written]


@given(texts=WORDS)
def test_texts_in_their_order_are_found_by_looking_once(texts):
    """However many there are: what an answer costs is no square of what was sent."""

    class Written(str):
        def __contains__(self, part):
            raise AssertionError(f"the whole prompt is looked through for {part!r}")

    messages = [{"role": "user", "content": text} for text in texts]
    assert missing_texts(messages, Written("<|user|>".join(texts))) == []
