"""One round of messages: convolution, self-connection, norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from .convolution import Convolution, Edges
from .gate import Gate
from .grid import ScalarMixer, SphereMixer
from .irreps import Blocks, Irreps
from .layers import EquivariantLinear, LayerNorm, Names, pad_truncate
from .moments import SortedEdges, moments_with_pullback
from .polynomial import PolynomialMixer
from .pullback import with_pullback

__all__ = ["RECOMPUTE_ABOVE", "Layer"]

#: Above so many atoms, values on a grid are made again in the backward pass instead of kept.
RECOMPUTE_ABOVE = 2000


class Layer(nn.Module):
    """One round: convolution, self-connection, norm, and the input carried over."""

    def __init__(self, inputs: Irreps, outputs: Irreps, symmetry: str, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        message, own = cfg["interaction"]["message"], cfg["self_connection"]
        kind, higher = own["kind"], outputs.lmax > 0

        self.mixer: nn.Module
        middle = outputs
        if kind == "gate":
            self.mixer = Gate(outputs)
            middle = self.mixer.inputs
        elif kind == "linear":
            self.mixer = EquivariantLinear(outputs, outputs)
        elif not higher:
            self.mixer = ScalarMixer(outputs, own["mlp"])
        elif kind == "s2-polynomial":
            self.mixer = PolynomialMixer(outputs, own["polynomial"])
        else:
            self.mixer = SphereMixer(outputs, own["s2_grid"], own["mlp"])

        self.intro = (
            EquivariantLinear(inputs, inputs) if cfg["interaction"]["linear_intro"] else None
        )
        self.conv = Convolution(
            inputs,
            int(message["max_ell"]),
            outputs,
            symmetry,
            int(cfg["edge_embed"]["radial_basis"]["num_basis"]),
            message["radial_weight"],
        )
        self.outro = EquivariantLinear(self.conv.outputs, middle)
        self.adapter = EquivariantLinear(inputs, middle) if cfg["interaction"]["residual"] else None

        eps = cfg["norm_eps"]
        self.resid_ln = LayerNorm(outputs, cfg["resid_init"], eps) if cfg["residual"] else None
        self.norm = LayerNorm(outputs, "ones", eps) if cfg["norm"] == "layer" else None

    def names(self) -> Names:
        """Published names."""
        parts: dict[str, Any] = {
            "interaction/SimpleInteraction_0/linear_intro": self.intro,
            "interaction/SimpleInteraction_0/SevenNetConv_0": self.conv,
            "interaction/SimpleInteraction_0/linear_outro": self.outro,
            "interaction/resid_adapter": self.adapter,
            "self_connection": self.mixer,
            "resid_ln": self.resid_ln,
            "norm": self.norm,
        }
        for prefix, part in parts.items():
            if part is not None:
                for name, parameter in part.names():
                    yield f"{prefix}/{name}", parameter

    def forward(self, x: Blocks, edges: Edges, recompute: bool, record: Any = None) -> Blocks:
        """Map blocks of ``inputs`` to blocks of ``outputs``."""
        summed = self.conv(x if self.intro is None else self.intro(x), edges)
        h = moved = self.outro(summed)
        if self.adapter is not None:
            h = add(h, self.adapter(x))

        inner: dict[str, Tensor] | None = {} if record is not None else None
        if isinstance(self.mixer, SphereMixer | PolynomialMixer):
            y = self.mixer(h, recompute, inner)
        else:
            y = self.mixer(h)

        out: Blocks
        normed = out = y if self.resid_ln is None else self.resid_ln(y)
        if self.resid_ln is not None:
            out = add(out, pad_truncate(x, self.inputs, self.outputs))
        if self.norm is not None:
            out = self.norm(out)
        if record is not None:
            middle, flat = self.outro.outputs.flat, self.outputs.flat
            record["/interaction/SimpleInteraction_0/SevenNetConv_0"] = self.conv.outputs.flat(
                summed
            )
            record["/interaction/SimpleInteraction_0/linear_outro"] = middle(moved)
            record["/interaction/SimpleInteraction_0"] = middle(moved)
            if self.adapter is not None:
                record["/interaction/resid_adapter"] = middle(self.adapter(x))
            record["/interaction"] = middle(h)
            record.update({f"/self_connection{k}": v for k, v in (inner or {}).items()})
            record["/self_connection"], record["/resid_ln"] = flat(y), flat(normed)
            record[""] = flat(out)
        return out

    def with_pullback(
        self, x: Blocks, edges: SortedEdges
    ) -> tuple[Blocks, Callable[[Blocks, bool], Blocks]]:
        """As :meth:`forward`, and the pullback.

        That adds the gradient of the geometry to ``edges``; where its second argument is False
        the inputs depend on no position, and it returns nothing.
        """
        y, pulls = x, {}
        if self.intro is not None:
            y, pulls["intro"] = self.intro.with_pullback(x)
        summed, pull_conv = moments_with_pullback(self.conv, y, edges)
        h, pull_outro = self.outro.with_pullback(summed)
        if self.adapter is not None:
            own, pulls["adapter"] = self.adapter.with_pullback(x)
            h = add(h, own)

        mixer: Any = self.mixer
        if isinstance(mixer, SphereMixer):
            mixer = partial(mixer, recompute=h[0].shape[0] > RECOMPUTE_ABOVE)
        out, pull_mixer = with_pullback(mixer, h)
        if self.resid_ln is not None:
            out, pulls["resid_ln"] = self.resid_ln.with_pullback(out)
            out = add(out, pad_truncate(x, self.inputs, self.outputs))
        if self.norm is not None:
            out, pulls["norm"] = self.norm.with_pullback(out)

        def pullback(d: Blocks, wanted: bool) -> Blocks:
            d = pulls["norm"](d) if "norm" in pulls else d
            dh = pull_mixer(pulls["resid_ln"](d) if "resid_ln" in pulls else d)
            dx = pull_conv(pull_outro(dh), wanted)
            if not wanted:
                return {}
            dx = pulls["intro"](dx) if "intro" in pulls else dx
            if "adapter" in pulls:
                dx = add(dx, pulls["adapter"](dh))
            return (
                add(dx, pad_truncate(d, self.outputs, self.inputs)) if "resid_ln" in pulls else dx
            )

        return out, pullback


def add(one: Blocks, other: Blocks) -> Blocks:
    """Return the sum, degree by degree; a degree that one lacks is zero there."""
    lone = {k: v for k, v in other.items() if k not in one}
    return {k: v + other[k] if k in other else v for k, v in one.items()} | lone
