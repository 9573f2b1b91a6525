"""vLLM's queue interface over a policy's order."""

import gc

import pytest
from dry_engine import DryLoad, dry_request
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.core.sched.request_queue import RequestQueue

from paceline.schedule.policies import PolicyWeights, request_order
from paceline.vllm_plugin.views import prefill_request
from paceline.vllm_plugin.virtual import VirtualClock
from paceline.vllm_plugin.waiting import QueueingRecord, WaitingQueue


def queue(policy="srtf"):
    key_of, queueing = request_order(policy, PolicyWeights()), QueueingRecord(clock=VirtualClock())
    made = WaitingQueue(lambda request: key_of(prefill_request(request, queueing.of(request))), queueing)
    made.queueing = queueing
    return made


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
    for each in requests:
        waiting.add_request(each)
    waiting.remove_requests(requests[::2])
    waiting.prepend_requests(reversed(requests[::2]))  # those that were preempted or skipped
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
    waiting.add_request(second)
    waiting.remove_request(first)
    assert list(waiting) == [second]
    waiting.prepend_request(first)  # as vLLM does with one that was preempted
    assert waiting.peek_request() is first  # where it stands is the order of queueing
    waiting.remove_request(first)
    with pytest.raises(KeyError):
        waiting.remove_request(first)


def test_a_request_that_is_queued_again_goes_behind_those_that_were_there():
    waiting = queue("fcfs")
    first, second = request(0, 9), request(1, 3)
    for each in (first, second):
        waiting.add_request(each)
    waiting.remove_request(first)
    waiting.add_request(first)
    assert list(waiting) == [second, first]


def test_a_step_is_shown_what_is_planned_for_it():
    waiting = queue("fcfs")
    requests = [request(number, 9) for number in range(4)]
    for each in requests:
        waiting.add_request(each)
    waiting.show([requests[3], requests[1]])
    assert waiting.peek_request() is requests[3]
    assert waiting.pop_request() is requests[3]
    waiting.prepend_request(requests[3])  # skipped: it waits again, but not in this step
    assert waiting.pop_request() is requests[1]
    assert not waiting and len(waiting) == 3
    waiting.show(None)
    assert list(waiting) == [requests[0], requests[2], requests[3]]
    assert waiting.peek_request() is requests[0]


def test_nothing_is_kept_of_requests_that_are_gone():
    waiting = queue()
    for number in range(100):
        waiting.add_request(request(number, 9))
        waiting.pop_request()
    gc.collect()
    assert len(waiting.queueing._known) <= 1
