"""Several hosts that train together: their addresses, and their meeting before the training.

The launcher describes the hosts in `TF_CONFIG`, as for TensorFlow, or is a job step of SLURM with several tasks. Host 0
is the chief. The hosts meet before TensorFlow starts, because it would wait for a missing host without end and without
a message.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cyclegan.system.errors import HostLostError, UserError

# Environment variable: seconds that a host waits for the others.
WAIT = "CYCLEGAN_HOSTS_SECONDS"
DEFAULT_WAIT = 600
# Lowest port of SLURM jobs, below the ports that a system gives away by itself.
FIRST_PORT, PORTS = 10_000, 20_000

Compare = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


@dataclass(frozen=True)
class Hosts:
    """The hosts of a training.

    Attributes:
        addresses: `HOST:PORT` of each, the chief's first.
        index: number of this host.
    """

    addresses: tuple[str, ...]
    index: int

    @classmethod
    def from_environment(cls) -> Hosts | None:
        """The hosts that the launcher describes; None for a training on one host.

        Raises:
            UserError: `TF_CONFIG` is not valid.
        """
        environment = os.environ
        if "TF_CONFIG" in environment:
            hosts = _of_tf_config(environment["TF_CONFIG"])
        elif int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
            hosts = _of_slurm(environment)
        else:
            return None
        return hosts if len(hosts.addresses) > 1 else None

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    @property
    def count(self) -> int:
        return len(self.addresses)

    @property
    def tf_config(self) -> str:
        """These hosts for TensorFlow."""
        return json.dumps(
            {"cluster": {"worker": list(self.addresses)}, "task": {"type": "worker", "index": self.index}}
        )

    @contextmanager
    def meeting(self) -> Iterator[Callable[[Mapping[str, Any], Compare], None]]:
        """Meet the other hosts: a follower waits for the chief here.

        Yields:
            A function of this host's shapes and of a function that compares two of them. It waits for all hosts, and
            raises UserError on each of them if a host differs from the chief.

        Raises:
            HostLostError: a host has not come in time, or has ended.
        """
        deadline = time.monotonic() + float(os.environ.get(WAIT) or DEFAULT_WAIT)
        with ExitStack() as stack:
            if self.is_chief:
                server = stack.enter_context(_listen(self.addresses[0]))
                yield lambda shapes, compare: self._receive(server, deadline, shapes, compare)
            else:
                chief = stack.enter_context(self._connect(deadline))
                yield lambda shapes, compare: self._send(chief, shapes)

    def _receive(self, server: socket.socket, deadline: float, shapes: Mapping[str, Any], compare: Compare) -> None:
        """As chief: wait for all hosts, compare each with this one, and send all of them the result."""
        problems: list[str] = []
        with ExitStack() as stack:
            connections: dict[int, socket.socket] = {}
            while len(connections) < self.count - 1:
                server.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    connection = stack.enter_context(server.accept()[0])
                    connection.settimeout(max(0.1, deadline - time.monotonic()))
                    message = json.loads(connection.makefile("rb").readline() or b"null")
                except TimeoutError:
                    missing = [n for n in range(1, self.count) if n not in connections]
                    names = ", ".join(f"{n} ({self.addresses[n]})" for n in missing)
                    raise HostLostError(f"host {names}: has not come in time; start all hosts again") from None
                except (OSError, ValueError):
                    continue
                if not isinstance(message, dict):
                    # Something else connected, or a follower has ended.
                    continue
                connections[message["index"]] = connection
                lines = compare(json.loads(json.dumps(shapes)), message["shapes"])
                if lines:
                    few = "; ".join(lines[:3])
                    problems.append(f"host {message['index']} ({message['name']}): differs from the chief: {few}")
            result = problems[0] if problems else None
            for connection in connections.values():
                connection.sendall(json.dumps({"problem": result}).encode() + b"\n")
        # TensorFlow will listen on this port.
        server.close()
        if result is not None:
            raise UserError(f"{result}; give all hosts the same data, params.yaml and code")

    def _connect(self, deadline: float) -> socket.socket:
        """As follower: wait until the chief has reached this stage."""
        host, _, port = self.addresses[0].rpartition(":")
        while True:
            try:
                connection = socket.create_connection((host, int(port)), timeout=5)
                connection.settimeout(None)
                return connection
            except OSError:
                if time.monotonic() > deadline:
                    raise HostLostError(
                        f"host 0 ({self.addresses[0]}): the chief has not come in time; raise {WAIT} if its earlier "
                        "stages take longer"
                    ) from None
                time.sleep(0.5)

    def _send(self, chief: socket.socket, shapes: Mapping[str, Any]) -> None:
        """As follower: send the chief what shapes the training here, and wait for its answer."""
        message = {"index": self.index, "name": socket.gethostname(), "shapes": shapes}
        try:
            chief.sendall(json.dumps(message).encode() + b"\n")
            answer = json.loads(chief.makefile("rb").readline() or b"null")
        except (OSError, ValueError):
            answer = None
        if answer is None:
            raise HostLostError(f"host 0 ({self.addresses[0]}): the chief has ended; see its error")
        if answer["problem"]:
            raise UserError(answer["problem"])


def _listen(address: str) -> socket.socket:
    port = address.rpartition(":")[2]
    try:
        return socket.create_server(("", int(port)))
    except OSError as error:
        raise UserError(f"{address}: cannot listen ({error.strerror}); choose another port") from None


def _of_tf_config(text: str) -> Hosts:
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {"type": "worker", "index": 0})
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        kind, index = task["type"], int(task["index"])
        addresses = (*chiefs, *workers)
        place = index + (len(chiefs) if kind == "worker" else 0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("TF_CONFIG: not a valid description of the hosts; see docs/devices.md") from None
    if kind not in ("chief", "worker") or (addresses and place >= len(addresses)):
        raise UserError(f"TF_CONFIG: task {kind} {index} is no chief and no worker of the cluster; see docs/devices.md")
    return Hosts(addresses, place)


def _of_slurm(environment: Mapping[str, str]) -> Hosts:
    # `SlurmClusterResolver` sorts the names, so that node10 comes before node9, and changes CUDA_VISIBLE_DEVICES.
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    port = FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS
    tasks = expand_counts(environment["SLURM_STEP_TASKS_PER_NODE"])
    addresses = [f"{node}:{port + n}" for node, count in zip(nodes, tasks, strict=True) for n in range(count)]
    return Hosts(tuple(addresses), int(environment["SLURM_PROCID"]))


def expand_nodes(text: str) -> list[str]:
    """The nodes in SLURM's short form: `a[1-2,07],b` is a1, a2, a07, b."""
    nodes: list[str] = []
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for plain, numbers in re.findall(r"([^\[]+)|\[([^\]]*)\]", name):
            names = [start + end for start in names for end in ([plain] if plain else _numbers(numbers))]
        nodes += names
    return nodes


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return found


def expand_counts(text: str) -> list[int]:
    """The numbers in SLURM's short form: `2(x3),1` is 2, 2, 2, 1."""
    return [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]
