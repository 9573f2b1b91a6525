"""Which questions of a set are asked: a seeded order of which every beginning is a fair part of each type."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from paceline.datasets.sampling import stratified_order

IDS = st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=60)


@st.composite
def sets(draw):
    return {sample_id: (draw(st.sampled_from(["a", "b", "c"])),) for sample_id in draw(IDS)}


@given(types=sets(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_order_holds_every_question_once_whatever_the_order_of_rows(types, seed, data):
    order = stratified_order(types, seed=seed)
    assert Counter(order) == Counter(types.keys())
    shuffled = {name: types[name] for name in data.draw(st.permutations(list(types)))}
    assert stratified_order(shuffled, seed=seed) == order


@given(types=sets(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_every_beginning_takes_the_same_share_of_each_type_within_one_question(types, seed, data):
    sizes = Counter(types.values())
    beginning = stratified_order(types, seed=seed)[: data.draw(st.integers(1, len(types)))]
    taken = Counter(types[name] for name in beginning)
    lowest = max((taken[kind] - 1) / size for kind, size in sizes.items())
    highest = min((taken[kind] + 1) / size for kind, size in sizes.items())
    assert lowest <= highest  # one share is within one question of each type's


def test_another_seed_asks_others():
    types = {str(number): () for number in range(1000)}
    one, other = (set(stratified_order(types, seed=seed)[:100]) for seed in (1, 2))
    assert 2 <= len(one & other) <= 30
