"""The mean of the weights of models that were trained one from the other.

    python data/shipped/average.py OUT.nnp MODEL.nnp MODEL.nnp...

Ends of a warm restart lie in one basin, where the mean of the weights errs less than either end
(Izmailov et al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ase_nnp


def main(out: Path, paths: list[Path]) -> None:
    """Average the parameters; all else is the first model's."""
    models = [ase_nnp.load_model(p, device="cpu") for p in paths]
    with torch.no_grad():
        for same in zip(*(m.parameters() for m in models), strict=True):
            same[0].copy_(torch.stack([p.double() for p in same]).mean(dim=0))
    ase_nnp.save_model(models[0], out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
