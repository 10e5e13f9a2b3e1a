"""How the hosts of a training find and compare each other."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from cyclegan.system.errors import HostLostError, UserError
from cyclegan.system.hosts import WAIT, Hosts, expand_counts, expand_nodes

VARIABLES = ("TF_CONFIG", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def tf_config(kind: str, index: int, **cluster: list[str]) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_no_description_is_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hosts.from_environment() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert Hosts.from_environment() is None
    monkeypatch.setenv("TF_CONFIG", tf_config("worker", 0, worker=["a:1"]))
    assert Hosts.from_environment() is None


def test_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config("worker", 1, chief=["a:1"], worker=["b:1", "c:1"]))
    hosts = Hosts.from_environment()
    assert hosts == Hosts(("a:1", "b:1", "c:1"), 2)
    # A host that TensorFlow counts as chief is the first worker here.
    assert json.loads(hosts.tf_config)["task"] == {"type": "worker", "index": 2}


@pytest.mark.parametrize(
    "text", ["{", "[]", tf_config("ps", 0, worker=["a:1", "b:1"]), tf_config("worker", 2, worker=["a:1", "b:1"])]
)
def test_a_wrong_tf_config_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG"):
        Hosts.from_environment()


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"STEP_NUM_TASKS": "3", "STEP_NODELIST": "node[9-10]", "STEP_TASKS_PER_NODE": "2,1"}
    for name, value in {**step, "PROCID": "2", "JOB_ID": "20007"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    # In the order of the tasks, which is not that of the alphabet.
    assert Hosts.from_environment() == Hosts(("node9:10007", "node9:10008", "node10:10007"), 2)


def test_short_forms_of_slurm() -> None:
    assert expand_nodes("node[1-3,07],gpu2,a[1-2]b") == ["node1", "node2", "node3", "node07", "gpu2", "a1b", "a2b"]
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]


def compare(chief: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {chief[key]} -> {host[key]}" for key in chief if chief[key] != host[key]]


def meet(shapes: list[dict[str, Any]]) -> list[BaseException | None]:
    """What each host's meeting raises."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    addresses = tuple(f"127.0.0.1:{port + n}" for n in range(len(shapes)))
    raised: list[BaseException | None] = [None] * len(shapes)

    def attend(index: int) -> None:
        try:
            with Hosts(addresses, index).meeting() as agree:
                agree(shapes[index], compare)
        except Exception as error:
            raised[index] = error

    threads = [threading.Thread(target=attend, args=(index,)) for index in range(len(shapes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_equal_hosts_agree() -> None:
    assert meet([{"data": "x", "train": {"size": [1, 2]}}] * 3) == [None] * 3


def test_a_host_that_differs_is_named_on_all() -> None:
    raised = meet([{"data": "x"}, {"data": "x"}, {"data": "y"}])
    for error in raised:
        assert type(error) is UserError
        assert "host 2" in str(error)
        assert socket.gethostname() in str(error)
        assert "data: x -> y" in str(error)


@pytest.mark.parametrize(("index", "missing"), [(0, 1), (1, 0)])
def test_a_host_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, index: int, missing: int) -> None:
    monkeypatch.setenv(WAIT, "0.1")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
    with pytest.raises(HostLostError) as raised, Hosts(addresses, index).meeting() as agree:
        agree({}, compare)
    assert f"host {missing} ({addresses[missing]})" in str(raised.value)
    assert raised.value.exit_code == 75
