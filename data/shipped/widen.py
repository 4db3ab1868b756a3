"""Give a trained Facet more channels, so that training can go on where it was.

    python data/shipped/widen.py MODEL.nnp WIDER.nnp "160x0e + 80x1o + 40x2e"

The trained weights stay in the first channels of each degree. What leads into the new channels is
drawn at random as in a fresh model, what leads out of them is zero: they change the energy only
through the layer norms, which see them, until training uses them (T. Chen et al., Net2Net,
arXiv:1511.05641, copies channels instead; two equal channels take long to part under Muon).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import ase_nnp


def kept(old: list[int], new: list[int]) -> Tensor:
    """Where the entries of blocks of sizes ``old`` go if the blocks grow to sizes ``new``."""
    starts = [sum(new[:k]) for k in range(len(new))]
    return torch.cat([torch.arange(n) + s for n, s in zip(old, starts, strict=True)])


def place(fresh: Tensor, trained: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``trained`` within ``fresh``; new rows lead nowhere among the old columns."""
    result = fresh.clone()
    result[:, columns] = 0.0
    result[rows[:, None], columns] = trained
    return result


def path_sizes(layer, degree: int | None = None) -> list[int]:
    """Channels of a convolution's paths, all or those that end at ``degree``, in their order."""
    paths = [p for p in layer.conv.paths if degree in (None, p.l3)]
    return [layer.inputs.mult(p.l1) for p in paths]


def widen_linear(name: str, old, new, result: dict, rows, columns) -> None:
    """One matrix for each degree; its factor of one over the root of the inputs changes."""
    for key, weight in old.weights.items():
        ratio = (new.weights[key].shape[0] / weight.shape[0]) ** 0.5
        degree = int(key)
        placed = place(new.weights[key], weight * ratio, rows(degree), columns(degree))
        result[f"{name}.weights.{key}"] = placed


def widen_layer(name: str, old, new, result: dict[str, Tensor]) -> None:
    """All weights of a layer whose inputs or outputs became more."""

    def ins(k: int) -> Tensor:
        return kept([old.inputs.mult(k)], [new.inputs.mult(k)])

    def outs(k: int) -> Tensor:
        return kept([old.outputs.mult(k)], [new.outputs.mult(k)])

    def summed(k: int) -> Tensor:
        return kept(path_sizes(old, k), path_sizes(new, k))

    kernel = "conv.radial.kernels.0"
    own, wider = old.get_parameter(kernel), new.get_parameter(kernel)
    columns = kept(path_sizes(old), path_sizes(new))
    result[f"{name}.{kernel}"] = place(wider, own, torch.arange(len(own)), columns)
    widen_linear(f"{name}.outro", old.outro, new.outro, result, summed, outs)
    widen_linear(f"{name}.adapter", old.adapter, new.adapter, result, ins, outs)
    scales = new.resid_ln.ln_scale.clone()
    sizes = [[i.mult(k) for k in old.outputs.degrees] for i in (old.outputs, new.outputs)]
    scales[kept(*sizes)] = old.resid_ln.ln_scale
    result[f"{name}.resid_ln.ln_scale"] = scales

    if hasattr(old.mixer, "proj_up"):
        widen_mixer(f"{name}.mixer", old.mixer, new.mixer, result, outs)


def widen_mixer(name: str, old, new, result: dict[str, Tensor], outs) -> None:
    """The products on the sphere: as many functions, of more channels."""
    scalars = (old.irreps.mults[0], new.irreps.mults[0])

    def functions(k: int) -> Tensor:
        return torch.arange(old.spread.mult(k))

    def joined(k: int) -> Tensor:
        before = [[n] for n in scalars] if k == 0 else [[], []]
        return kept(*([*b, old.width] for b in before))

    for key in ("gate", "scalar"):
        own, wider = old.get_parameter(key), new.get_parameter(key)
        columns = outs(0) if key == "scalar" else torch.arange(own.shape[1])
        result[f"{name}.{key}"] = place(wider, own, outs(0), columns)
    widen_linear(f"{name}.proj_up", old.proj_up, new.proj_up, result, outs, functions)
    widen_linear(f"{name}.proj_down", old.proj_down, new.proj_down, result, joined, outs)


def widened(old, new) -> dict[str, Tensor]:
    """All weights of ``new``, with those of ``old`` in their place."""
    trained, fresh = old.state_dict(), new.state_dict()
    result = {k: trained[k] if trained[k].shape == v.shape else v for k, v in fresh.items()}
    for number, (before, after) in enumerate(zip(old.layers, new.layers, strict=True)):
        widen_layer(f"layers.{number}", before, after, result)
    return result


def main() -> None:
    """Write the wider model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("irreps", help="of both hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    old = ase_nnp.load_model(args.model, device="cpu")
    if old.layers[-1].outputs.mults[0] > old.layers[-1].inputs.mults[0]:
        # What is carried over into the last layer would then reach new channels.
        raise SystemExit("outs_per_node is larger than the number of scalars.")
    config = {**old.config, "hidden_irreps": [args.irreps] * 2}
    new = ase_nnp.build_model("facet", config, seed=args.seed, device="cpu", dtype="float32")
    with torch.no_grad():
        new.load_weights(widened(old, new))
    ase_nnp.save_model(new, args.output)
    counts = [sum(p.numel() for p in m.parameters()) for m in (old, new)]
    print(f"{counts[0]} parameters before, {counts[1]} now")


if __name__ == "__main__":
    main()
