"""A priority queue with static keys: every operation O(log n), and the order can be walked without emptying it."""

from collections.abc import Callable, Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from paceline.schedule.policies import SortKey

Item = TypeVar("Item", bound=Hashable)
DEAD_ENTRIES_KEPT = 64


class PolicyQueue(Generic[Item]):
    """Items in the order of a key taken when they are pushed; equal keys in the order of pushing.

    Removal is lazy: the heap keeps a dead entry until it reaches the top or half of the entries are dead.
    """

    __slots__ = ("_heap", "_key_of", "_live", "_pushed")

    def __init__(self, key_of: Callable[[Item], SortKey]) -> None:
        self._key_of = key_of
        self._pushed = 0  # a number, for a queue can be copied
        self._heap: list[tuple[SortKey, int, Item]] = []
        self._live: dict[Item, int] = {}

    def push(self, item: Item) -> None:
        """Add an item under its present key; one that is in the queue already is moved to where that key belongs."""
        number = self._pushed
        self._pushed += 1
        self._live[item] = number
        heappush(self._heap, (self._key_of(item), number, item))
        self._drop_dead()

    def peek(self) -> Item:
        """Return the first item; raises IndexError when the queue is empty."""
        return self._heap[0][2]

    def pop(self) -> Item:
        """Remove and return the first item; raises IndexError when the queue is empty."""
        item = heappop(self._heap)[2]
        del self._live[item]
        self._drop_dead()
        return item

    def remove(self, item: Item) -> None:
        """Remove an item from wherever it stands; raises KeyError when it is not in the queue."""
        del self._live[item]
        self._drop_dead()

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, item: Item) -> bool:
        return item in self._live

    def __iter__(self) -> Iterator[Item]:
        """Walk the items in order, O(log k) for the k-th; the queue must not change during a walk."""
        heap = self._heap
        front = [(heap[0], 0)] if heap else []
        while front:
            entry, position = heappop(front)
            if self._is_live(entry):
                yield entry[2]
            for child in (2 * position + 1, 2 * position + 2):
                if child < len(heap):
                    heappush(front, (heap[child], child))

    def _is_live(self, entry: tuple[SortKey, int, Item]) -> bool:
        return self._live.get(entry[2]) == entry[1]

    def _drop_dead(self) -> None:
        """Leave a live entry at the top, and no more than half of the entries dead, a few aside."""
        if len(self._heap) > 2 * len(self._live) + DEAD_ENTRIES_KEPT:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapify(self._heap)
        while self._heap and not self._is_live(self._heap[0]):
            heappop(self._heap)
