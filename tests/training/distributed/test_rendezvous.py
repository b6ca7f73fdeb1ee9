"""Processes that do not find or that contradict one another all report it early and in one line."""

import contextlib
import socket
import threading

import pytest

from optimiz.training import RunError
from optimiz.training.distributed import rendezvous
from optimiz.training.distributed.processes import join


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def meet(port, *guests, seconds=5.0, host="127.0.0.1"):
    """So many processes meet, each given by its number of processes and index: what each was told."""
    said = [None] * len(guests)

    def one(place, processes, index):
        try:
            rendezvous.meet(f"{host}:{port}", processes, index, seconds)
        except RunError as error:
            said[place] = str(error)

    threads = [threading.Thread(target=one, args=(place, *guest)) for place, guest in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 20)
        assert not thread.is_alive()
    return said


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_all_find_each_other_and_the_port_is_free_at_once(port, processes):
    for _ in range(3):
        assert meet(port, *((processes, index) for index in range(processes))) == [None] * processes
    socket.create_server(("", port)).close()


def test_the_first_process_alone_waits_no_longer_than_given(port):
    [said] = meet(port, (3, 0), seconds=0.3)
    assert said == f"of 3 processes, 1, 2 did not connect to process 0, at port {port}, within 0 s"


def test_early_processes_wait_for_the_others(port, monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.1)
    said = []
    early = threading.Thread(target=lambda: said.extend(meet(port, (3, 0), (3, 1))))
    early.start()
    threading.Event().wait(0.5)
    assert meet(port, (3, 2)) == [None]
    early.join()
    assert said == [None, None]


def test_connected_processes_learn_which_ones_are_missing(port):
    said = meet(port, (3, 0), (3, 2), seconds=0.5)
    assert said == [f"of 3 processes, 1 did not connect to process 0, at port {port}, within 0 s"] * 2


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_without_the_first_process_the_others_wait_no_longer_than_given(port, host):
    [said] = meet(port, (2, 1), seconds=0.5, host=host)
    assert said.startswith(f"process 1 found no process 0 at {host}:{port} within 0 s: ")


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
def test_other_numbers_of_processes_are_refused_on_all(port, first, second):
    message = (
        f"process 1 was started with processes={second}, process 0 with processes={first}: they must agree"
    )
    assert meet(port, (first, 0), (second, 1)) == [message] * 2


def test_two_processes_of_the_same_index_are_refused_on_all(port):
    said = meet(port, (3, 0), (3, 1), (3, 1))
    assert said == ["two processes were started with index 1"] * 3


def test_a_port_in_use_is_reported_at_once(port):
    with socket.create_server(("127.0.0.1", port)):
        assert meet(port, (2, 0)) == [f"process 0 cannot listen on port {port}: Address already in use"]


def test_only_one_of_two_first_processes_succeeds(port):
    said = meet(port, (2, 0), (2, 0), seconds=1.0)
    assert sum("Address already in use" in each for each in said) == 1
    assert sum("of 2 processes, 1 did not connect" in each for each in said) == 1


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b'{"optimiz": {}}\n', b"x" * 9999, b"1\n"]
)
def test_other_clients_of_the_port_are_not_counted(port, sent):
    said = []
    first = threading.Thread(target=lambda: said.extend(meet(port, (2, 0))))
    first.start()
    for _ in range(100):
        try:
            stranger = socket.create_connection(("127.0.0.1", port), timeout=1)
            break
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
    with stranger, contextlib.suppress(OSError):  # once enough has been read, the first process hangs up
        stranger.sendall(sent)
        if sent.endswith(b"x"):
            stranger.shutdown(socket.SHUT_WR)
    assert meet(port, (2, 1)) == [None]
    first.join()
    assert said == [None]


@pytest.mark.parametrize(
    "coordinator", ["host", "host:", ":1234", "host:99999", "host:0", "host:-1", "host:12a", "::1", ""]
)
def test_an_address_without_host_or_port_is_refused(coordinator):
    with pytest.raises(ValueError, match=r'coordinator must be "host:port", with a port in \[1, 65535\], got'):
        join(coordinator, 2, 1)


@pytest.mark.parametrize(("processes", "index"), [(0, 0), (-1, 0), (2, -1), (2, 2), (2.0, 1)])
def test_impossible_numbers_are_refused(processes, index):
    with pytest.raises((ValueError, TypeError), match=r"^(processes|index) must be"):
        join("127.0.0.1:1234", processes, index)
