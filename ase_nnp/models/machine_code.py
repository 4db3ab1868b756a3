"""Machine code from traced operations, by AOTInductor and the machine's C++ compiler."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ase_nnp.errors import ConfigError

__all__ = ["OPTIONS", "compile_program", "find_compiler"]

#: Of inductor, by what Facet gains: sums into atoms in the loop that makes the messages, short sums
#: written out, products and sums as one instruction. Headers made beforehand would lie in a folder
#: that anybody can foresee. Constants are not folded when the code is loaded: with torch 2.13.0
#: Facet's then had whatever memory held.
OPTIONS: dict[str, Any] = {
    "cpp.fallback_scatter_reduce_sum": False,
    "cpp.enable_floating_point_contract_flag": "fast",
    "unroll_reductions_threshold": 17,
    "aot_inductor.precompile_headers": False,
}


def find_compiler(other_way: str) -> None:
    """Raise ConfigError where there is no C++ compiler; its text ends with another way."""
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"])):
        raise ConfigError(
            "A C++ compiler is needed: no g++ or clang++ was found (CXX names another). "
            + other_way
        )


def compile_program(
    program: torch.export.ExportedProgram, file: Path, text: Mapping[str, str]
) -> None:
    """Write the machine code of a program to a file that ends in ``.pt2``.

    Parameters
    ----------
    program
        From :func:`ase_nnp.models.tracing.traced`.
    file
        Where to.
    text
        Words to keep in it, by name.

    Raises
    ------
    ConfigError
        The compiler failed.
    """
    from torch._inductor import aoti_compile_and_package

    options = {**OPTIONS, "aot_inductor.metadata": dict(text)}
    try:
        with _private_scratch():
            aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)
    except Exception as error:  # a compiler that fails may do so in any way
        raise ConfigError(
            f"The C++ compiler did not compile the model ({type(error).__name__}: "
            f"{str(error)[:300]})."
        ) from error


@contextmanager
def _private_scratch() -> Iterator[None]:
    # torch's own folder has a name that anybody can foresee and make first, in a place where
    # everybody writes, and what lies there becomes part of the code.
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="ase_nnp-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
