"""A bounded process is started again when it has to be, and by each process of its own."""

from __future__ import annotations

import os
import signal

import pytest

from components.bounded_process import BoundedProcess

pytestmark = pytest.mark.process

MODULE = "tests.doubles.pid_process"


def test_a_process_that_another_ended_costs_no_question() -> None:
    process = BoundedProcess(MODULE, "nothing")
    first = process.ask("?")
    assert first is not None
    assert process.ask("?") == first
    os.kill(int(first), signal.SIGKILL)
    # It is dead from here on, and its status is left for its owner.
    os.waitid(os.P_PID, int(first), os.WEXITED | os.WNOWAIT)
    assert process.ask("?") not in (None, first)


def test_a_forked_process_has_one_of_its_own() -> None:
    process = BoundedProcess(MODULE, "nothing")
    first = process.ask("?")
    child = os.fork()
    if child == 0:
        os._exit(process.ask("?") in (None, first))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert process.ask("?") == first


def test_one_that_does_not_start_says_so_each_time() -> None:
    process = BoundedProcess("tests.doubles.there_is_none", "a package")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="is a package installed"):
            process.ask("?")
