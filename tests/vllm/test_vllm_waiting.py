"""vLLM's queue interface over a policy's order."""

import pytest
from dry_engine import DryLoad, dry_request
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.core.sched.request_queue import RequestQueue

from paceline.schedule.policies import PolicyWeights, request_order
from paceline.vllm_plugin.views import prefill_request
from paceline.vllm_plugin.waiting import WaitingQueue


def queue(policy="srtf"):
    key_of = request_order(policy, PolicyWeights())
    return WaitingQueue(lambda request: key_of(prefill_request(request)))


def request(number, tokens, *, preemptions=0):
    made = dry_request(number, DryLoad(tokens, 1), arrival_time=float(number))
    made.num_preemptions = preemptions
    return made


def test_it_is_vllms_queue():
    assert isinstance(queue(), RequestQueue)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=12), st.data())
def test_requests_leave_in_order_preempted_ones_first(sizes, data):
    waiting = queue()
    requests = [request(number, tokens, preemptions=int(again)) for number, (tokens, again) in enumerate(sizes)]
    waiting.prepend_requests(requests[::2])
    for each in requests[1::2]:
        waiting.add_request(each)
    gone = [each for each in requests if data.draw(st.booleans())]
    waiting.remove_requests([*gone, request(99, 1)])  # one that does not wait is not an error, as in vLLM
    left = sorted(
        (each for each in requests if each not in gone),
        key=lambda each: (each.num_preemptions == 0, each.num_tokens, each.arrival_time),
    )
    assert list(waiting) == left
    assert len(waiting) == len(left) and bool(waiting) == bool(left)
    for expected in left:
        assert waiting.peek_request() is expected
        assert waiting.pop_request() is expected
    with pytest.raises(IndexError):
        waiting.peek_request()
    with pytest.raises(IndexError):
        waiting.pop_request()


def test_one_request_can_be_taken_out():
    waiting = queue("fcfs")
    first, second = request(0, 9), request(1, 3)
    waiting.add_request(first)
    waiting.prepend_request(second)
    assert waiting.peek_request() is first  # where it stands is the policy's to say
    waiting.remove_request(first)
    assert list(waiting) == [second]
    with pytest.raises(KeyError):
        waiting.remove_request(first)
