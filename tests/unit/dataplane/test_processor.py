"""What threads that serve guests ask of the scheduler."""

import os
import re
import threading
from pathlib import Path

import pytest

from swos_net.dataplane.processor import SLICE, run_promptly


def slice_of_this_thread() -> float | None:
    """Seconds, as the kernel says; None where it does not."""
    try:
        text = Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    except OSError:
        return None
    found = re.search(r"se\.slice\s*:\s*(\d+)", text)
    return int(found[1]) / 1e9 if found else None


def in_a_thread(function):
    """What it returns, in a thread that ends with it and so keeps its changes to itself."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_asking_changes_the_slice_and_nothing_else():
    def ask():
        before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
        asked = run_promptly()
        return asked, before, (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)), slice_of_this_thread()

    asked, before, after, length = in_a_thread(ask)
    assert asked and before == after
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if length is not None and release >= (6, 12):
        assert length == pytest.approx(SLICE)


def test_a_thread_under_another_policy_is_left_alone():
    def ask():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return run_promptly(), os.sched_getscheduler(0)

    assert in_a_thread(ask) == (False, os.SCHED_BATCH)
