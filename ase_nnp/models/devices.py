"""Devices and precisions by name."""

from __future__ import annotations

import torch

from ase_nnp.errors import ConfigError

__all__ = ["pick_device", "pick_dtype"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the named device; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        A device that this machine or this torch does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{device!r} is no device; say 'auto', 'cpu' or 'cuda'.") from error

    # Here and not at the first tensor, where torch's message is about its build.
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("No CUDA device can be used here; say device='cpu' or 'auto'.")
    try:
        # Of "mps", "xpu", "cuda:7" only an allocation tells whether they are there; on "meta"
        # arrays have shapes and no values.
        torch.ones(1, device=chosen).item()
    except Exception as error:  # backends raise RuntimeError, AssertionError and others
        reason = str(error).partition("\n")[0].partition(". ")[0]
        if isinstance(error, NotImplementedError):
            reason = "this torch is built without it"
        raise ConfigError(
            f"The device '{chosen}' cannot be used here ({reason}); say device='cpu' or 'auto'."
        ) from error
    return chosen


def pick_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Return a torch dtype for ``"float32"`` (the default) or ``"float64"``."""
    if dtype is None:
        return torch.float32
    chosen = DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise ConfigError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
    return chosen
