"""Attention transfer: squared distance of attention maps."""

from torch import Tensor

from kd.models.taps import TapReading, attention_map, matched, unit_map

ADAPTED = False


def loss(student: Tensor, reading: TapReading) -> Tensor:
    """Squared distance of the attention maps, summed over positions, averaged over the batch: 0-2.

    Zagoruyko and Komodakis, "Paying more attention to attention", ICLR 2017 (arXiv 1612.03928).
    Maps of different size are pooled to the smaller and brought to length 1 again. A map of one
    position is 1 for every image: there the loss is 0.
    """
    ours, theirs = matched(attention_map(student)[:, None], reading.attention[:, None])
    difference = unit_map(ours[:, 0]) - unit_map(theirs[:, 0])
    return difference.square().sum(dim=(1, 2)).mean()
