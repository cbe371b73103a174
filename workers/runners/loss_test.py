"""The job that tries out a loss of the user's own, before the study trains with it."""

from collections.abc import Iterator
from itertools import product

import torch

from kd.errors import ProtocolError
from kd.losses.own import OwnLoss, random_reading
from kd.models.build import tap_shapes
from kd.models.taps import TapReading
from kd.names import mixes, parse_loss
from kd.training.teacher import MAX_RANK, pooled_sides
from workers.events import Event, Result, ShouldStop
from workers.jobs import LossJob
from workers.runners.loading import build_network, dataset_info


def run_loss(job: LossJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Find the protocol's own loss and, with data, compute it at the taps of every student.

    Raises ProtocolError, in one line, if it cannot be trained with.
    """
    protocol = job.protocol
    name = parse_loss(protocol.loss)
    if name is None:
        raise ProtocolError(f"{protocol.loss} is not a loss of your own")
    loss = OwnLoss.find(name, job.layout.own)
    if job.dataset:
        info = dataset_info(job)
        batch = min(protocol.batch_size, sum(info["counts"]["train"]))
        answers = [
            _readings(job.with_teacher(place), batch, device)
            for place in range(len(protocol.teachers))
        ]
        for readings, student in product(answers, protocol.students):
            shapes = tap_shapes(build_network(job, student))
            taps = {tap: shapes[tap] for tap in job.taps}
            loss.try_out(
                taps,
                readings,
                classes=len(info["classes"]),
                batch=batch,
                device=device,
                mixing=mixes(protocol.augment),
            )
    yield Result.of()


def _readings(job: LossJob, batch: int, device: torch.device) -> dict[str, TapReading]:
    """Return random features of the first teacher at the taps of the study, reduced as cached."""
    shapes = tap_shapes(build_network(job, job.protocol.teacher, teacher=True))
    readings = {}
    for tap in job.taps:
        channels, height, width = shapes[tap]
        features = min(channels, MAX_RANK), *pooled_sides(height, width)
        readings[tap] = random_reading(batch, features, (height, width), device)
    return readings
