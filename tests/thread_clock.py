"""A clock of processor time, for tests that measure on a machine that others use too."""

import time

from paceline.measure.clock import HostClock


class ThreadClock(HostClock):
    """Marks in processor time of this thread: what else the machine does in between is not counted."""

    def mark(self):
        return time.thread_time_ns()
