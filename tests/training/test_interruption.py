"""Requests to stop: what waits for the step in progress, and what does not."""

from __future__ import annotations

import os
import signal

import pytest

from vlm_ablate.training.interruption import Interruption


def test_a_first_signal_waits_for_the_step_and_a_second_signal_does_not() -> None:
    interruption = Interruption()
    with interruption.handling_signals(), interruption.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested and not interruption.early
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_elsewhere_a_signal_interrupts_at_once() -> None:
    with Interruption().handling_signals(), pytest.raises(KeyboardInterrupt, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_early_stop_is_of_this_run_and_a_signal_after_it_stops_all() -> None:
    interruption = Interruption()
    with interruption.handling_signals(), interruption.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.requested and interruption.early
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested and not interruption.early
        interruption.request_early()
        assert not interruption.early, "what stops all is not taken back"
