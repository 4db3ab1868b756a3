"""Fit what tells the shipped model's doubts: energy stds and a flag for the unknown.

    python data/shipped/fit_uncertainty.py MODEL.nnp LABELS -o MODEL.uq

The last layer gives the std of the energy (covariance over the training structures). The distance
of each atom's surroundings from those of the training atoms, in neighbours' distances and not in
the features of the model, which hardly notice two atoms that are too near, gives ``ood_flag`` and
the stds of forces. The structures that training only watched calibrate both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from train import load_frames, split

import ase_nnp
from ase_nnp import uncertainty


def main() -> None:
    """Fit, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--structures", type=int, default=1500, help="of training, at random")
    parser.add_argument(
        "--quantile", type=float, default=0.998, help="of training scores: the flag"
    )
    parser.add_argument("--kind", default="mahalanobis")
    args = parser.parse_args()
    model = ase_nnp.load_model(args.model, device="cpu")
    train, watched = split(load_frames(args.labels))
    order = np.random.default_rng(1).permutation(len(train))[: args.structures]
    train = [train[i] for i in order]
    layer = uncertainty.fit(
        "last_layer", model, train=train, force_std="none", noise={"energy": 0.05}
    )
    fitted = uncertainty.fit(
        "latent",
        layer,
        train=train,
        kind=args.kind,
        quantile=args.quantile,
        layer="",
        calibration=watched,
    )
    found = ase_nnp.predict(fitted, watched, properties=("ood_flag",), progress=False)
    share = float(np.mean([r["ood_flag"] for r in found]))
    print(f"flagged of the watched: {share:.3f}; threshold {fitted.threshold:.3f}")
    uncertainty.save_uncertainty(fitted, args.output, structures=len(train), watched_flagged=share)


if __name__ == "__main__":
    main()
