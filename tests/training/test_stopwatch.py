"""A stopwatch adds up laps, and leaves out the pauses."""

import time

from optimiz.training import stopwatch
from optimiz.training.stopwatch import Stopwatch


def test_laps_are_added_up_without_the_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch(seconds=7.0)
    watch.start()
    now[0] += 2
    with watch.paused() as pause:
        now[0] += 5
    now[0] += 1
    assert (watch.lap(), watch.seconds, pause.seconds) == (3.0, 10.0, 5.0)
    now[0] += 50  # between a lap and the next
    watch.start()
    now[0] += 4
    assert (watch.lap(), watch.seconds) == (4.0, 14.0)


def test_it_counts_seconds():
    watch = Stopwatch()
    watch.start()
    time.sleep(0.02)
    assert 0.02 <= watch.lap() < 5
