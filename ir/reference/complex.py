"""Reference semantics of complex numbers and Fourier transforms."""

from __future__ import annotations

import torch

from plait.ir.ops import core
from plait.ir.reference.table import Args, Context, MixedArgs, reference


@reference(core.Complex)
def complex_(op: core.Complex, args: Args, ctx: Context) -> torch.Tensor:
    """A complex number of two parts."""
    real, imag = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
    return torch.complex(real, imag)


@reference(core.Real)
def real(op: core.Real, args: Args, ctx: Context) -> torch.Tensor:
    """The real part."""
    return args[0].real


@reference(core.Imag)
def imag(op: core.Imag, args: Args, ctx: Context) -> torch.Tensor:
    """The imaginary part."""
    return args[0].imag


@reference(core.Dft)
def dft(op: core.Dft, args: MixedArgs, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """torch.fft without scale, in f32 for half precision."""
    first, second = args
    dtype = first.dtype
    wide = first if dtype in (torch.float32, torch.float64) else first.float()
    x = torch.complex(wide, torch.zeros_like(wide) if second is None else second.to(wide.dtype))
    y = torch.fft.ifft(x, dim=op.axis, norm="forward") if op.inverse else torch.fft.fft(x, dim=op.axis)
    if op.onesided:
        y = y.narrow(op.axis, 0, x.shape[op.axis] // 2 + 1)
    return y.real.to(dtype), y.imag.to(dtype)
