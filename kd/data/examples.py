"""The examples of a split: in the memory of the device, or batch by batch from the host's.

A split that does not fit into its share of memory stays where it is: mapped from its file, which
the system reads as needed. A thread gathers its next batches while one is computed.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from kd.data.inputs import Inputs
from kd.data.labels import Labels, MixedLabels
from kd.data.views import View, render, view

AHEAD = 2  # batches that are gathered while one is computed
PINNING = ("cuda", "xpu")  # devices that copy from pinned memory while they compute

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Stored `values` [N, ...], described by `inputs`, and their `labels` [N] int64.

    Labels are on the device that computes. So are values, unless they are `streamed`.
    """

    values: Tensor
    labels: Tensor
    inputs: Inputs
    streamed: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device that batches are on."""
        return self.labels.device

    def to(self, device: torch.device, room: float = math.inf) -> "Examples":
        """Return the examples for a device; values of more than `room` bytes are streamed."""
        streamed = self.values.nbytes > room
        values = self.values if streamed else self.values.to(device)
        return replace(self, values=values, labels=self.labels.to(device), streamed=streamed)

    def first(self, count: int) -> "Examples":
        """Return the first examples, on the device."""
        return self._taken(self.values[:count], self.labels[:count])

    def repeated(self, count: int) -> "Examples":
        """Return `count` examples, on the device; after the last follows the first again."""
        return self.at(torch.arange(count) % len(self))

    def every(self, step: int) -> "Examples":
        """Return each `step`-th example, from the first on."""
        return replace(self, values=self.values[::step], labels=self.labels[::step])

    def at(self, index: Tensor) -> "Examples":
        """Return the examples `index` [B], which is on the CPU, on the device."""
        if not self.streamed:
            index = index.to(self.device)
        return self._taken(self.values[index], self.labels[index.to(self.device)])

    def _taken(self, values: Tensor, labels: Tensor) -> "Examples":
        return replace(self, values=values.to(self.device), labels=labels, streamed=False)

    def view(self, seed: int, k: int, augment: str) -> View:
        """Return view `k` of the examples, on the CPU; see `kd.data.views`."""
        return view(seed, k, self.values, augment)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Yield all values, `size` at a time."""
        parts = self.values.split(size)
        return _ahead(parts, self._sent) if self.streamed else iter(parts)

    def batches(self, order: Sequence[Tensor], rows: View) -> Iterator[tuple[Tensor, Labels]]:
        """Yield inputs [B, ...] and labels [B] of each index [B], as augmented by a view.

        Indices and view are on the CPU. Where the view mixes examples, labels have their partners'.
        """
        drawn, whole = rows.to(self.device), torch.cat(list(order)).to(self.device)
        places = whole.split([len(index) for index in order])
        sent = self._sent_ahead(order, rows) if self.streamed else None
        for index in places:
            own = drawn.at(index)
            partner = None if own.mixture is None else own.mixture.partner
            if sent:
                values, partners = next(sent)
            else:
                values = self.values.index_select(0, index)
                partners = None if partner is None else self.values.index_select(0, partner)
            yield render(values, own, partners), self._targets(index, own)

    def _targets(self, index: Tensor, rows: View) -> Labels:
        labels = self.labels[index]
        if rows.mixture is None:
            return labels
        return MixedLabels(labels, self.labels[rows.mixture.partner], rows.mixture.share)

    def _sent_ahead(
        self, order: Sequence[Tensor], rows: View
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the stored values of each index, and those of its partners in the view."""
        partner = None if rows.mixture is None else rows.mixture.partner

        def gather(index: Tensor) -> tuple[Tensor, Tensor | None]:
            values = self._sent(self.values.index_select(0, index))
            if partner is None:
                return values, None
            return values, self._sent(self.values.index_select(0, partner[index]))

        return _ahead(order, gather)

    def _sent(self, values: Tensor) -> Tensor:
        """Copy values of the host to the device, while it computes if it can."""
        pins = self.device.type in PINNING
        return (values.pin_memory() if pins else values).to(self.device, non_blocking=pins)


def _ahead(items: Iterable[T], function: Callable[[T], R]) -> Iterator[R]:
    """Yield the function's value for each item; a thread computes the next ones meanwhile."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
