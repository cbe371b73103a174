"""The job that finds the taps of a study: modules that teacher and students have in common."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kd.errors import ProtocolError
from kd.json_data import plain
from kd.model_rules import DEFAULT_TAPS
from kd.models.build import Network
from kd.names import parse_model
from workers.events import Event, Result, ShouldStop
from workers.jobs import Job, TapsJob
from workers.runners.loading import build_network


def run_taps(job: TapsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Report the module of each tap in every model, where all have the tap.

    Raises ProtocolError for a tap of the protocol that a model lacks.
    """
    protocol = job.protocol
    networks = {
        role: _shapes(job.with_teacher(place), protocol.teachers[place], teacher=True)
        for place, role in enumerate(protocol.teacher_roles)
    }
    for name in protocol.students:
        networks[name] = _shapes(job, name)
    wanted = protocol.tap_names if protocol.taps else DEFAULT_TAPS
    taps = [tap for tap in wanted if all(tap in network.taps for network in networks.values())]
    if protocol.taps and len(taps) < len(wanted):
        raise ProtocolError(_lacking(networks, wanted))
    yield Result.of(
        taps={
            tap: {name: network.places[tap].path for name, network in networks.items()}
            for tap in taps
        }
    )


def teacher_modules(job: Job) -> list[Any]:
    """Return what the first teacher's readings at a job's taps depend on, beside its weights.

    For a tap that a family of the catalogue defines, this is its name; for others also the module
    and the layout of its output.
    """
    protocol, names = job.protocol, job.taps
    if parse_model(protocol.teacher).in_catalogue and not protocol.teacher_paths:
        return list(names)
    network = _shapes(job, protocol.teacher, teacher=True)
    return [{"tap": name, **plain(network.places[name])} for name in names]


def _shapes(job: Job, name: str, *, teacher: bool = False) -> Network:
    """Return a model with its taps and any weights; models of the catalogue get none."""
    with torch.device("meta" if parse_model(name).in_catalogue else "cpu"):
        return build_network(job, name, teacher=teacher)


def _lacking(networks: dict[str, Network], wanted: Sequence[str]) -> str:
    """Return the error for the first model that lacks a tap."""
    for network in networks.values():
        for tap in wanted:
            if tap not in network.taps:
                hint = f"use --taps {','.join(network.taps)}" if network.taps else "omit --taps"
                return f"{network.name} has no tap {tap!r}; {hint}"
    raise AssertionError(wanted)
