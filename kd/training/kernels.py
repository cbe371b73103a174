"""Test whether this processor's convolution kernels compute correctly, and limit them if not.

On x86 processors PyTorch's convolutions use oneDNN, which has kernels for each instruction set.
Some of them write past their memory, or produce weights that are not finite, without an error. So
one training step runs with every convolution compared with the same convolution in float64, which
PyTorch's own kernels compute.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from kd.data.examples import Examples
from kd.models.network import Network
from kd.models.numerics import training_backward, training_forward
from kd.training.evaluation import batch_size

VARIABLE = "ONEDNN_MAX_CPU_ISA"  # read by oneDNN when a process computes its first convolution
INSTRUCTION_SETS = ("AVX2", "AVX", "SSE41")  # that a process can be limited to, widest first
LIMITS = re.compile(r"SSE41|AVX(2|512|10)?(_\w+)?")  # valid values of the variable, in upper case
# Releases of oneDNN whose AVX2 kernels are known to be wrong. In 3.12 the gradients of a strided
# 1x1 convolution of fewer than 8 channels in channels last write past their memory.
WRONG_AVX2 = ("3.12",)
KNOWN_LIMIT = "AVX"
# Relative to a convolution's largest value. Rounding errors are 1e-6 in float32 and 1e-2 in
# bfloat16; the error of a wrong kernel is about 1.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}

aten: Any = torch.ops.aten


class WrongKernelError(Exception):
    """A convolution differs from the same one in float64 by more than rounding."""


def onednn_version() -> str:
    """Return the version of oneDNN that torch was built with; empty if it was built without."""
    words = torch.__config__.show().partition("MKL-DNN v")[2].split()
    return words[0] if words else ""


def known_limit() -> str:
    """Return the instruction set to which this processor is limited without a test; else empty.

    That applies to processors whose widest kernels are AVX2 kernels that are known to be wrong.
    """
    wrong = onednn_version().rpartition(".")[0] in WRONG_AVX2
    return KNOWN_LIMIT if wrong and torch.backends.cpu.get_cpu_capability() == "AVX2" else ""


def limit() -> str:
    """Return the instruction set to which this process is limited; empty if there is no limit.

    Other values of the variable, such as misspelt ones, limit nothing: oneDNN ignores them.
    """
    value = os.environ.get(VARIABLE, "").upper()
    return value if LIMITS.fullmatch(value) else ""


def set_known_limit() -> None:
    """Limit this process if its processor is known for wrong kernels, unless a limit is set."""
    if not limit() and (known := known_limit()):
        os.environ[VARIABLE] = known


def narrower(current: str) -> tuple[str, ...]:
    """Return the instruction sets below `current`, whose kernels are wrong, widest first.

    `current` is empty for a process without a limit.
    """
    widest = torch.backends.cpu.get_cpu_capability()
    if not torch.backends.mkldnn.is_available() or widest not in ("AVX512", "AVX2"):
        return ()
    at_most = current if current in INSTRUCTION_SETS else widest
    below = INSTRUCTION_SETS.index(at_most) + 1 if at_most in INSTRUCTION_SETS else 0
    return INSTRUCTION_SETS[below:]


def try_kernels(
    network: Network,
    examples: Examples,
    *,
    batch: int,
    precision: str,
    begun: Callable[[str], None],
) -> None:
    """Run one training step on the first `batch` of the stored `examples`, and evaluate a batch.

    Examples are repeated where they are fewer than a batch. `begun` is called before each
    convolution with its description, to locate a crash.
    Raises WrongKernelError for the first convolution that is wrong.
    """
    device = torch.device("cpu")
    trained, evaluated = (
        examples.repeated(count) for count in (batch, batch_size(network.inputs, device))
    )
    forward = training_forward(network, device, precision, compiled=False)
    with _Compared(begun):
        logits, _ = forward(trained.values, ())
        training_backward(network, device)(functional.cross_entropy(logits, trained.labels))
        with torch.no_grad():  # same kernels as in inference mode, which hides convolutions
            network.eval()(evaluated.values)


class _Compared(TorchDispatchMode):
    """Compares each convolution and its gradients with the same in float64, once per shape."""

    def __init__(self, begun: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._begun = begun
        self._seen: set[str] = set()
        self._generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function not in (aten.convolution.default, aten.convolution_backward.default):
            return function(*args, **(kwargs or {}))
        case = _description(function, args)
        self._begun(case)
        key = f"{case} {[value.stride() for value in args if isinstance(value, Tensor)]}"
        if key not in self._seen:
            self._seen.add(key)
            drawn = [self._redrawn(value) for value in args]
            precise = [value.double() if isinstance(value, Tensor) else value for value in drawn]
            _compare(case, function(*drawn), function(*precise))
        return function(*args)

    def _redrawn(self, value: Any) -> Any:
        """Return a tensor of random numbers with the layout of `value`; other values unchanged.

        A network's own numbers may cancel out, such as the gradient of a bias before batch norm,
        and only rounding errors would be compared.
        """
        if not isinstance(value, Tensor):
            return value
        drawn = torch.randn(value.shape, generator=self._generator)
        return torch.empty_like(value).copy_(drawn)


def _description(function: Any, args: Any) -> str:
    """Return the properties of a convolution on which the choice of its kernel depends.

    `args` are those of `aten.convolution`; for gradients, the output's gradient comes first.
    """
    of = "a convolution"
    if function is aten.convolution_backward.default:
        of, args = "the gradients of a convolution", args[1:]
    images, weights, _, stride, padding, dilation, transposed, _, groups = args[:9]
    dtype = str(images.dtype).removeprefix("torch.")
    parts = [
        f"{of} of {list(images.shape)} by {list(weights.shape)}",
        f"stride {stride}",
        f"padding {padding}",
        *([f"dilation {dilation}"] if set(dilation) != {1} else []),
        *(["transposed"] if transposed else []),
        *([f"groups {groups}"] if groups > 1 else []),
        f"{_layout(images)} in {dtype}",
    ]
    return ", ".join(parts)


def _layout(value: Tensor) -> str:
    if value.is_contiguous():
        return "contiguous"
    last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return "channels last" if last else f"strides {list(value.stride())}"


def _compare(case: str, result: Any, precise: Any) -> None:
    """Raise WrongKernelError if a tensor of `result` differs from `precise` by too much."""
    pairs = zip(result, precise, strict=True) if isinstance(result, tuple) else [(result, precise)]
    for value, reference in pairs:
        if value is None or not value.numel():
            continue
        scale = float(reference.abs().max()) or 1.0
        error = float((value.double() - reference).abs().max()) / scale
        if not error <= TOLERANCE.get(value.dtype, 1e-3):
            raise WrongKernelError(f"{case}, is off by {error:.2g} of its largest value")
