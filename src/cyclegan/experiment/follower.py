"""A training on several hosts: the agreement of all hosts, and the part of those that are not the chief."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.experiment.devices import choose_strategy
from cyclegan.experiment.earlier_trainings import differences
from cyclegan.experiment.initial_networks import find_initial_networks
from cyclegan.experiment.networks import with_precision
from cyclegan.experiment.plan import batches
from cyclegan.experiment.run_key import host_shape
from cyclegan.experiment.session import build_training
from cyclegan.params.overrides import effective
from cyclegan.project import Project
from cyclegan.system.digests import folder_digest
from cyclegan.system.hosts import Hosts
from cyclegan.training.device import prepare_device
from cyclegan.training.followers import follow, lost_hosts_reported

Agree = Callable[[Mapping[str, Any]], None]


@contextmanager
def agreement(hosts: Hosts | None) -> Iterator[Agree]:
    """Meet the other hosts; yields a function that compares what shapes the training on each. One host: no effect.

    Raises:
        UserError: a host has other data, parameters or code.
        HostLostError: a host has not come in time.
    """
    if hosts is None:
        yield lambda shapes: None
        return
    with hosts.meeting() as compare:
        yield lambda shapes: compare(shapes, differences)


def run_follower(project: Project, hosts: Hosts) -> int:
    """Train as the chief commands; returns its exit code. Writes no file and no MLflow run.

    Raises:
        UserError: this host differs from the chief.
        HostLostError: a host was lost.
    """
    print(f"host {hosts.index} of {hosts.count}: waiting for the chief, {hosts.addresses[0]}", flush=True)
    with agreement(hosts) as agree:
        # The chief has now reached this stage, so the data and the winner of a search are there.
        params = effective(project).params
        dataset = PackedDataset.open(project.split)
        agree(host_shape(project, params, folder_digest(project.split)))
    device = prepare_device(params.train.seed, params.train.deterministic)
    strategy = choose_strategy(params, hosts)
    with lost_hosts_reported():
        initial = find_initial_networks(project, params)
        params, _, model = build_training(with_precision(params), dataset, strategy, initial)
    print(f"host {hosts.index} of {hosts.count}: following the chief on {device}", flush=True)
    return follow(model, batches(params, dataset, model.image_size, strategy))
