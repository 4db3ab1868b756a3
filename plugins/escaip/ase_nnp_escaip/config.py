"""What a configuration means: the generation, its own defaults, and the names of the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from ase_nnp.errors import ConfigError
from ase_nnp.registry.kinds import check_kinds

__all__ = ["COMMON", "GEN1", "GEN3", "OWN", "PUBLISHED", "Settings", "settings_from"]

#: Hyper-parameters that all generations have.
COMMON: dict[str, Any] = {
    "hidden_size": 512,
    "num_layers": 10,
    "atten_num_heads": 8,
    "activation": "gelu",
    "normalization": "rmsnorm",
    "distance_function": "gaussian",
    "max_radius": None,
    "max_num_elements": None,
    "use_pbc": True,
    "regress_forces": True,
    "atom_embedding_size": 128,
    "node_direction_embedding_size": 64,
    "node_direction_expansion_size": 10,
    "edge_distance_embedding_size": 512,
    "edge_distance_expansion_size": 600,
    "output_hidden_layer_multiplier": 2,
    "readout_hidden_layer_multiplier": 2,
    "ffn_hidden_layer_multiplier": 2,
    "atten_name": "math",
    "atten_dropout": 0.0,
    "mlp_dropout": 0.0,
    "stochastic_depth_prob": 0.0,
}
#: Generations 1 and 2; None stands for the value that the published configurations use.
GEN1: dict[str, Any] = {"direct_force": None, "max_neighbors": None, "avg_num_nodes": None}
#: Generation 3; None likewise.
GEN3: dict[str, Any] = {
    "direct_forces": None,
    "regress_stress": False,
    "knn_k": None,
    "knn_soft": None,
    "knn_sigmoid_scale": None,
    "knn_lse_scale": None,
    "knn_use_low_mem": None,
    "use_envelope": True,
    "use_frequency_embedding": True,
    "freequency_list": None,
    "use_angle_embedding": "none",
    "angle_expansion_size": 10,
    "angle_embedding_size": 8,
    "use_graph_attention": False,
    "use_message_gate": False,
    "use_global_readout": False,
    "energy_reduce": None,
}
#: What this package adds: which generation, units, and options of behavior.
OWN: dict[str, Any] = {
    "generation": None,
    "heads": None,
    "normalizer": None,
    "element_references": None,
    "energy_kind": None,
    "energy_reference": "",
    "forces": "auto",
    "rotations": 1,
    "attention": "auto",
    "smooth_graph": False,
    "compile": False,
}
#: What stands for None, by generation: the values of the published OC20 configurations.
PUBLISHED: dict[int, dict[str, Any]] = {
    1: {
        "max_radius": 12.0,
        "max_num_elements": 90,
        "direct": True,
        "max_neighbors": 20,
        "avg_num_nodes": 73.0,
        "energy_reduce": "sum",
    },
    2: {
        "max_radius": 12.0,
        "max_num_elements": 90,
        "direct": True,
        "max_neighbors": 20,
        "avg_num_nodes": 1.0,
        "energy_reduce": "mean",
    },
    3: {
        "max_radius": 6.0,
        "max_num_elements": 110,
        "direct": True,
        "knn_k": 30,
        "knn_soft": True,
        "knn_sigmoid_scale": 0.2,
        "knn_lse_scale": 0.1,
        "knn_use_low_mem": True,
        "energy_reduce": "sum",
    },
}
#: Published are 120 to 600.
MOST_DISTANCES = 100_000
#: Where more takes minutes, or memory that no file and nobody has asked for.
LARGEST = {
    "num_layers": 1000,
    "max_num_elements": 1000,
    "node_direction_expansion_size": 100,
    "angle_expansion_size": 100,
    "rotations": 1000,
    "edge_distance_expansion_size": MOST_DISTANCES,
    "max_neighbors": MOST_DISTANCES,
    "knn_k": MOST_DISTANCES,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("gelu", "squared_relu", "star_relu", "smelu", "leaky_relu", "relu"),
    "normalization": ("rmsnorm", "layernorm", "skip"),
    "distance_function": ("gaussian", "sigmoid", "linearsigmoid", "linear_sigmoid"),
    "use_angle_embedding": ("none", "scalar", "bias"),
    "energy_reduce": ("sum", "mean"),
    "forces": ("auto", "gradient"),
    "attention": ("auto", "math", "fused"),
}


@dataclass(frozen=True)
class Settings:
    """A configuration with nothing left open; names as published."""

    generation: int
    hidden_size: int
    num_layers: int
    atten_num_heads: int
    activation: str
    normalization: str
    distance_function: str
    max_radius: float
    max_num_elements: int
    use_pbc: bool
    regress_forces: bool
    atom_embedding_size: int
    node_direction_embedding_size: int
    node_direction_expansion_size: int
    edge_distance_embedding_size: int
    edge_distance_expansion_size: int
    output_hidden_layer_multiplier: int
    readout_hidden_layer_multiplier: int
    ffn_hidden_layer_multiplier: int
    atten_name: str
    atten_dropout: float
    mlp_dropout: float
    stochastic_depth_prob: float
    direct: bool
    energy_reduce: str
    forces: str
    rotations: int
    attention: str
    compile: bool
    max_neighbors: int = 20
    avg_num_nodes: float = 1.0
    regress_stress: bool = False
    knn_k: int = 30
    knn_soft: bool = True
    knn_sigmoid_scale: float = 0.2
    knn_lse_scale: float = 0.1
    knn_use_low_mem: bool = True
    use_envelope: bool = True
    use_frequency_embedding: bool = True
    freequency_list: tuple[int, ...] = ()
    use_angle_embedding: str = "none"
    angle_expansion_size: int = 10
    angle_embedding_size: int = 8
    use_graph_attention: bool = False
    use_message_gate: bool = False
    use_global_readout: bool = False
    smooth_graph: bool = False

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.atten_num_heads

    @property
    def edge_outputs(self) -> bool:
        """Whether the edges are read out, which only direct forces need."""
        return self.regress_forces and self.direct

    @property
    def conservative(self) -> bool:
        """Whether forces are the gradient of the energy."""
        return self.forces == "gradient" or not self.direct


def settings_from(config: Mapping[str, Any]) -> Settings:
    """Fill what a configuration leaves open and check what it says.

    Raises
    ------
    ConfigError
        For values that do not fit together.
    """
    generation = _generation(config)
    published = PUBLISHED[generation]
    values = {k: v for k, v in config.items() if v is not None}
    direct = config.get("direct_forces" if generation == 3 else "direct_force")
    values["direct"] = published["direct"] if direct is None else bool(direct)
    values = {**published, **values, "generation": generation}

    names = {f.name for f in fields(Settings)}
    values = {k: v for k, v in values.items() if k in names}

    check_kinds("EScAIP", values, get_type_hints(Settings), LARGEST)
    for key, allowed in CHOICES.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ConfigError(f"{key} is {values[key]!r}; choose one of {', '.join(allowed)}.")
    heads, hidden = int(values["atten_num_heads"]), int(values["hidden_size"])
    if heads < 1 or hidden % heads:
        raise ConfigError(f"hidden_size {hidden} does not divide into atten_num_heads={heads}.")
    # The centers of the distances are made by numpy, whose memory nothing else limits.
    distances = int(values["edge_distance_expansion_size"])
    if not 1 <= distances <= MOST_DISTANCES:
        raise ConfigError(f"edge_distance_expansion_size is {distances}: 1 to {MOST_DISTANCES}.")
    for key in ("num_layers", "rotations", "node_direction_expansion_size"):
        if int(values.get(key, 1)) < 1:
            raise ConfigError(f"{key} must be at least 1, not {values[key]!r}.")

    if int(values["max_num_elements"]) < 2 or not float(values["max_radius"]) >= 0.1:
        raise ConfigError("max_num_elements must be at least 2, max_radius at least 0.1 Angstrom.")

    if generation == 3:
        _check_third(values, hidden // heads)
    return Settings(**values)


def _check_third(values: dict[str, Any], head_size: int) -> None:
    repeats = tuple(int(f) for f in values.get("freequency_list") or ())
    if values["use_frequency_embedding"]:
        if not repeats and head_size == 64:
            repeats = (20, 10, 4, 10, 20)
        if sum(repeats) != head_size:
            raise ConfigError(
                f"freequency_list {list(repeats)} sums to {sum(repeats)}, but a head has "
                f"hidden_size / atten_num_heads = {head_size} channels; the two must agree."
            )
    values["freequency_list"] = repeats

    angle, direction = values["angle_expansion_size"], values["node_direction_expansion_size"]
    if values["use_angle_embedding"] == "bias" and angle != direction:
        raise ConfigError(
            f"use_angle_embedding='bias' needs angle_expansion_size ({angle}) equal to "
            f"node_direction_expansion_size ({direction})."
        )


def _generation(config: Mapping[str, Any]) -> int:
    """1, 2 or 3, from what the configuration says of it or else from its keys."""
    said = config.get("generation")
    if said is None:
        first = any(config.get(key) is not None for key in GEN1)
        third = any(config.get(key) is not None for key, value in GEN3.items() if value is None)
        return 1 if first and not third else 3
    text = str(said).strip().lower()
    for start, generation in (("v1", 1), ("v2", 3), ("1", 1), ("2", 2), ("3", 3)):
        if text.removeprefix("g").startswith(start):
            return generation
    raise ConfigError(
        f"generation is {said!r}; say 1 (the paper's weights), 2, or 3 (fairchem-core 2.x)."
    )


def head_kinds(config: Mapping[str, Any], settings: Settings) -> dict[str, tuple[str, bool]]:
    """Return ``{name: (kind, wrapped)}`` with kind ``energy``, ``force`` or ``grad``.

    A wrapped head keeps its weights under ``NAME.head``. The values of ``heads`` are published in
    several ways: a short word, a class name, or a dictionary with ``module``.
    """
    given = config.get("heads")
    if not given:
        if not settings.direct and settings.regress_forces:
            return {"energyandforcehead": ("grad", True)}
        energy = {"oc20_energy": ("energy", False)}
        return {**energy, "forces": ("force", False)} if settings.edge_outputs else energy

    kinds: dict[str, tuple[str, bool]] = {}
    for name, value in given.items():
        text = str(value.get("module", "") if isinstance(value, Mapping) else value)
        word = text.lower()
        inner = str(value.get("head_cls", "")) if isinstance(value, Mapping) else ""
        word += inner.lower()
        wrapped = "wrapper" in word or word == "grad"

        if "grad" in word:
            kind = "grad"
        elif "force" in word and "energyhead" not in word:
            kind = "force"
        elif "energy" in word:
            kind = "energy"
        else:
            raise ConfigError(
                f"The head '{name}' is {text!r}; an energy, direct-force or gradient head is known."
            )
        kinds[str(name)] = (kind, wrapped)

    if not any(kind in ("energy", "grad") for kind, _ in kinds.values()):
        raise ConfigError(f"None of the heads {', '.join(kinds)} gives an energy.")
    return kinds
