"""Calculators of other packages for the ASE contract suite, without any download.

    python -m ase_nnp.cli plugin check --ase-calculator contract_calculators:chgnet

from this folder. ``mace`` needs an environment of its own; ``benchmarks/ase_contract.py`` needs
nothing but this package's files on its path there.
"""

from __future__ import annotations

from typing import Any


def chgnet() -> Any:
    """CHGNet 0.3.0 with the weights of its wheel."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def sevennet() -> Any:
    """SevenNet-0 with the weights of its wheel."""
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def matgl() -> Any:
    """TensorNet of matgl with fresh weights, as its calculator comes out of the box."""
    import torch
    from matgl.apps.pes import Potential
    from matgl.config import DEFAULT_ELEMENTS
    from matgl.ext.ase import PESCalculator
    from matgl.models import TensorNet

    torch.manual_seed(0)
    return PESCalculator(Potential(TensorNet(element_types=DEFAULT_ELEMENTS, is_intensive=False)))


def mace(hidden: str = "32x0e + 32x1o", max_ell: int = 2, r_max: float = 5.0) -> Any:
    """A small MACE with fresh weights."""
    import numpy as np
    import torch
    from mace import modules  # before e3nn 0.4.4, which torch 2.6 and later does not import alone
    from mace.calculators import MACECalculator

    # isort: split
    from e3nn import o3

    torch.manual_seed(0)
    numbers = [1, 6, 8, 29]
    model = modules.ScaleShiftMACE(
        r_max=r_max,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=max_ell,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=30.0,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    return MACECalculator(models=[model], device="cpu", default_dtype="float32")


def ours() -> Any:
    """The smallest of this project's families with forces and stress."""
    import ase_nnp

    small = {"hidden_irreps": ["8x0e + 4x1o"], "edge_embed": {"r_max": 4.0}}
    return ase_nnp.NNPCalculator(ase_nnp.build_model("facet", small, seed=0, device="cpu"))
