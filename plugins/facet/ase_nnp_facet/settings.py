"""Configurations: the published nested keys, our defaults for them, and what is refused."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from ase_nnp.errors import ConfigError

__all__ = ["CONFIG_EXTRAS", "DEFAULTS", "MAX_DEGREE", "MPTRJ_ELEMENTS", "PUBLISHED", "resolve"]

#: Published networks end at degree 3; a file must not ask for tables without end.
MAX_DEGREE = 32

#: The 89 elements of the MPtrj data set.
MPTRJ_ELEMENTS = tuple(z for z in range(1, 95) if not 84 <= z <= 88)

#: Keys beside "model" in a published configuration file that count.
CONFIG_EXTRAS = ("species", "avg_num_neighbors_table")

_MLP: dict[str, Any] = {
    "inner_dims": [],
    "activation": "silu",
    "final_activation": "Identity",
    "dropout": 0.0,
    "residual": False,
    "num_heads": 1,
    "use_bias": False,
    "normalization": "Identity",
}

#: ``norm_eps`` of the default mode, far above the squares of features that vanish by symmetry. A
#: norm that scales an atom's features of degree > 0 to unit size turns sharply where they are zero:
#: with 1e-2 a fresh model's elastic constants change sixfold between strains of 0.1 and 2 %, with
#: 0.3 and more they do not, and 3 also extrapolates best.
SMOOTH = 3.0

#: Every hyper-parameter. The names are the published ones except where the comment says "ours".
DEFAULTS: dict[str, Any] = {
    "reference": False,  # ours: parity mode
    "species": None,  # atomic numbers; None: the 89 of MPtrj
    "avg_num_neighbors": None,
    "avg_num_neighbors_table": None,
    "max_neighbors": None,  # ours: nearest neighbors kept, as the published models do; None: all
    "summation": "auto",  # ours: auto, moments or messages
    "hidden_irreps": ["128x0e + 64x1o + 32x2e", "128x0e + 64x1o + 32x2e"],
    "outs_per_node": 64,
    "residual": True,
    "resid_init": "ones",
    "norm": "identity",
    "norm_eps": "auto",  # ours: see SMOOTH; a file holds the number
    # ours: another family beneath this model, {"family": "zbl", "config": {...}}; None: nothing
    "prior": {"family": None, "config": {}},
    # ours: {"kind": "ewald" | "neural_atoms" | "charges", ...}, see ase_nnp.models.long_range
    "long_range": None,
    "radial_splines": None,  # ours: [splines, intervals] of ase_nnp.models.splines.splinify
    "block_reduction": "last",
    "share_species_embed": True,
    "node_embed": {"kind": "linear", "embed_dim": 64},
    "edge_embed": {
        "r_max": 6.0,
        "r_max_trainable": False,
        "radius_transform": "Identity",
        "radial_basis": {
            "kind": "bessel",
            "num_basis": 8,
            "freq_trainable": True,
            "use_sinc": True,
            "mu_max": 7.0,
            "sd": 0.25,
        },
        "envelope": {"kind": "smooth", "cutoff_start": 0.5, "c": 0.1},
    },
    "interaction": {
        "kind": "simple",
        "residual": True,
        "linear_intro": False,
        "linear_outro": True,
        "message": {
            "kind": "sevennet-conv",
            "max_ell": 2,
            "radial_power": 0.7,
            "avg_num_neighbors": None,
            "radial_weight": _MLP,
        },
    },
    "readout": {"kind": "identity"},
    "self_connection": {
        "kind": "s2-polynomial",  # ours; published: s2-mlp-mixer
        "s2_grid": {
            "activation": "silu",
            "res_beta": 18,
            "res_alpha": 17,
            "degree": 17,  # ours: of the lebedev grid
            "normalization": "integral",
            "quadrature": "lebedev",
            "use_fft": False,
        },
        "polynomial": {"order": 3, "channels": 64},  # ours
        "mlp": {**_MLP, "inner_dims": [16], "final_activation": "silu", "num_heads": 2},
    },
    "rescale": {
        "kind": "species-wise",
        "scale_trainable": True,
        "shift_trainable": True,
        "global_scale_trainable": True,
        "global_shift_trainable": True,
    },
    "head": _MLP,
}


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults updated, at every depth, by ``config``.

    Raises
    ------
    ConfigError
        An unknown key, with the nearest name, or a choice that is not there.
    """
    full = _merge(DEFAULTS, config, "")
    for place, allowed in _CHOICES.items():
        value: Any = full
        for key in place.split("."):
            value = value[key]
        if str(value).lower() not in allowed:
            raise ConfigError(f"{place} must be one of {', '.join(allowed)}, not {value!r}.")
    degree = full["interaction"]["message"]["max_ell"]
    if not 0 <= int(degree) <= MAX_DEGREE:
        raise ConfigError(f"max_ell must lie between 0 and {MAX_DEGREE}, not {degree!r}.")
    full["norm_eps"] = _norm_eps(full)
    return full


def _norm_eps(cfg: Mapping[str, Any]) -> float:
    """The number: as given, smooth in the default mode, as published in parity mode."""
    given = cfg["norm_eps"]
    if given == "auto":
        return 1e-6 if cfg["reference"] else SMOOTH
    if given is None:  # files from before the number was stored
        return 1e-2 if cfg["self_connection"]["kind"] == "s2-polynomial" else 1e-6
    return float(given)


def splined(config: Mapping[str, Any], cutoff: float, count: int, intervals: int) -> dict[str, Any]:
    """Return the configuration with ``count`` splines in place of the radial networks."""
    made = copy.deepcopy(dict(config))
    made["radial_splines"] = [count, intervals]
    made["edge_embed"] |= {"r_max": cutoff, "r_max_trainable": False}
    made["edge_embed"]["radial_basis"]["num_basis"] = count
    made["interaction"]["message"]["radial_weight"] = copy.deepcopy(_MLP)
    return made


_CHOICES = {
    "summation": ("auto", "moments", "messages"),
    "block_reduction": ("last",),
    "norm": ("identity", "layer"),
    "node_embed.kind": ("linear",),
    "edge_embed.radius_transform": ("identity",),
    "edge_embed.radial_basis.kind": ("bessel", "gauss", "spline"),
    "edge_embed.envelope.kind": ("smooth", "exp", "xplor", "polynomial"),
    "interaction.kind": ("simple",),
    "interaction.linear_outro": ("true",),
    "interaction.message.kind": ("sevennet-conv",),
    "readout.kind": ("identity",),
    "self_connection.kind": ("s2-mlp-mixer", "s2-polynomial", "gate", "linear"),
    "self_connection.s2_grid.normalization": ("integral",),
    "rescale.kind": ("species-wise", "sevennet"),
}


def _merge(base: Mapping[str, Any], given: Mapping[str, Any], place: str) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in given.items():
        if key not in base:
            close = difflib.get_close_matches(key, list(base), n=1)
            meant = f" Did you mean '{place}{close[0]}'?" if close else ""
            raise ConfigError(f"'facet' has no hyper-parameter '{place}{key}'.{meant}")
        if isinstance(base[key], Mapping) and place + key != "prior.config":
            if not isinstance(value, Mapping):
                raise ConfigError(f"{place}{key} must be a mapping, not {value!r}.")
            merged[key] = _merge(base[key], value, f"{place}{key}.")
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _published(irreps: list[str], lmax: int, cutoff: float, k: int, width: int) -> dict[str, Any]:
    return {
        "hidden_irreps": irreps,
        "outs_per_node": width,
        "resid_init": "zeros",
        "max_neighbors": k,
        "node_embed": {"embed_dim": width},
        "edge_embed": {
            "r_max": cutoff,
            "r_max_trainable": True,
            "envelope": {"kind": "exp", "cutoff_start": 0.8, "c": 0.1},
        },
        "interaction": {"message": {"max_ell": lmax}},
        "self_connection": {
            "kind": "s2-mlp-mixer",
            "s2_grid": {"quadrature": "soft", "res_beta": 18, "res_alpha": 17},
        },
        "head": {"dropout": 0.2},
    }


def _sevennet(radial: list[int], own: dict[str, Any], learn_cutoff: bool) -> dict[str, Any]:
    return {
        "hidden_irreps": [_S] * 4,
        "outs_per_node": 128,
        "residual": False,
        "max_neighbors": 32,
        "node_embed": {"embed_dim": 128},
        "edge_embed": {
            "r_max": 5.0,
            "r_max_trainable": learn_cutoff,
            "envelope": {"kind": "xplor", "cutoff_start": 0.9},
        },
        "interaction": {
            "linear_intro": True,
            "message": {"radial_power": 1.0, "radial_weight": {"inner_dims": radial}},
        },
        "self_connection": own,
        "rescale": {"kind": "sevennet"},
        "head": {"inner_dims": [] if learn_cutoff else [64]},
    }


_S = "128x0e + 64x1e + 32x2e"
_M = "128x0e + 32x1e + 16x2e + 8x3e"
_L = "128x0e + 64x1e + 32x2e + 16x3e"
_S2 = {
    "kind": "s2-mlp-mixer",
    "s2_grid": {"quadrature": "soft", "res_beta": 18, "res_alpha": 17},
    "mlp": {"normalization": "layer"},
}

#: The published configurations by name: four of Facet, and SevenNet-0 with its trimmed forms.
PUBLISHED: dict[str, dict[str, Any]] = {
    "facet-s": _published([_S, _S], 2, 6.0, 48, 64),
    "enb183": {**_published([_M, _M], 3, 5.0, 32, 128), "head": {"dropout": 0.15}},
    "facet-finetune": _published([_M, _L], 3, 5.0, 32, 128),
    "small": _published([_L, _L], 3, 5.0, 32, 128),
    "sevennet": _sevennet([64, 64], {"kind": "gate"}, False),
    "sevennet-trimmed": _sevennet([], {"kind": "gate"}, False),
    "sevennet-trimmed-energy-radius": _sevennet([], _S2, True),
}
PUBLISHED["facet-finetune"]["self_connection"]["mlp"] = {"dropout": 0.2}
