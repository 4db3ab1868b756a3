"""SCN: spherical channels for modelling atomic interactions, Zitnick et al., arXiv:2206.14331."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp import AtomGraph, ConfigError, Potential
from ase_nnp.models.energy_gradients import gradients
from ase_nnp_scn.blocks import EdgeBlock, GridBlock, activate, parts
from ase_nnp_scn.frames import drawn_reference, frames_about, structure_frames, turn
from ase_nnp_scn.neighbors import NEAREST, Neighbors, empty_table, ranks, table
from ase_nnp_scn.radial import DistanceBasis
from ase_nnp_scn.rotation import WignerRows, degrees
from ase_nnp_scn.scaling import read_normalizers
from ase_nnp_scn.sphere import harmonics, sample_points

OC20_REFERENCE = (
    "OC20 adsorption energy of the whole system: slab with adsorbate minus the relaxed clean slab "
    "minus gas-phase references for H, C, N and O (from H2, H2O, CO and N2), RPBE"
)


class SCN(Potential):
    """Energy and direct forces from messages between spherical channels.

    ``graph.extra["edge_random"]`` (E, 3), uniform in [0, 1), sets the edge frames as the reference
    implementation does from the same draw; without it they follow from the structure alone
    (:mod:`ase_nnp_scn.frames`).

    Parameters
    ----------
    config
        The keys of ``SCN_DEFAULTS`` in this package, complete.

    Raises
    ------
    ConfigError
        For values outside what the published code supports.
    """

    points: Tensor
    point_harmonics: Tensor
    elements_energy: Tensor | None
    energy_fc2: nn.Linear
    energy_fc3: nn.Linear
    force_fc2: nn.Linear
    force_fc3: nn.Linear
    required_inputs = ()

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        check(config)
        self.cutoff = float(config["cutoff"])
        self.max_neighbors = int(config["max_num_neighbors"])
        self.frames = int(config["frames"])

        self.gradient = config["forces"] == "gradient"
        self.direct = bool(config["regress_forces"]) and not self.gradient
        self.random_training = bool(config["random_training_frames"])
        self.conservative = self.gradient

        self.energy_kind = str(config["energy_kind"])
        self.energy_reference = OC20_REFERENCE if self.energy_kind == "adsorption" else ""
        self.graph_options = {"wrap": True} | ({} if config["use_pbc"] else {"pbc": (False,) * 3})
        self.elements = frozenset(range(1, min(int(config["max_num_elements"]), 119)))
        self.outputs = self._outputs()

        self.scale = read_normalizers(config["normalizer"] or {})
        references = config["element_references"]
        self.register_buffer(
            "elements_energy",
            None if references is None else torch.tensor(references, dtype=torch.float64),
            persistent=False,
        )
        self._build(config)

    def _outputs(self) -> tuple[str, ...]:
        outputs = ["energy"]
        if self.gradient:
            outputs += ["forces", "stress"]
        elif self.direct:
            outputs += ["forces"]
        if self.frames > 1:
            outputs += ["energy_std"] + (["forces_std"] if self.direct else [])
        return tuple(outputs)

    def _build(self, config: Mapping[str, Any]) -> None:
        lmax, mmax = int(config["lmax"]), int(config["mmax"])
        self.lmax, self.mmax, self.taps = lmax, mmax, 4 if mmax and config["num_taps"] != 1 else 1
        self.degrees = [lmax] if config["num_resolutions"] == 1 else [lmax, max(4, lmax - 2)]
        channels, reduced = int(config["sphere_channels"]), int(config["sphere_channels_reduce"])
        elements, bands = int(config["max_num_elements"]), int(config["num_bands"])

        self.sphere_embedding = nn.Embedding(elements, channels)
        self.distance_expansion = DistanceBasis(
            config["distance_function"],
            self.cutoff,
            int(self.cutoff / config["distance_resolution"]),
            float(config["basis_width_scalar"]),
        )
        self.edge_blocks = nn.ModuleList(
            EdgeBlock(
                degrees=self.degrees,
                mmax=mmax,
                channels=channels,
                reduced=reduced,
                hidden=int(config["hidden_channels"]),
                elements=elements,
                basis=self.distance_expansion,
                width=int(config["num_basis_functions"]),
                bands=bands,
                use_grid=bool(config["use_grid"]),
            )
            for _ in range(int(config["num_interactions"]))
        )
        for head in ("energy", *(["force"] if config["regress_forces"] else [])):
            self.add_module(f"{head}_fc1", nn.Linear(channels, channels))
            self.add_module(f"{head}_fc2", nn.Linear(channels, reduced))
            self.add_module(f"{head}_fc3", nn.Linear(reduced, 1))
        self.rotation = WignerRows(lmax, mmax)
        self.update = GridBlock(lmax, bands, reduced)
        points = sample_points(int(config["num_sphere_samples"]))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("point_harmonics", harmonics(points, lmax), persistent=False)

    def finish_graph(self, graph: AtomGraph) -> AtomGraph:
        """As the base class; edges of the first message block come before those of the second."""
        # Neighbors are ranked in float64: equal distances must not be told apart by rounding.
        if len(self.degrees) == 2:
            distance = (graph.edge_vectors().norm(dim=1) / 1e-6).round()

            # The second resolution takes the farther neighbors; edges stored in that order serve
            # both.
            far = ranks(graph.edge_index[1], distance, graph.num_atoms) >= NEAREST
            order = torch.argsort(far.to(torch.int8), stable=True)
            graph = graph.replace(
                edge_index=graph.edge_index[:, order], edge_shift=graph.edge_shift[order]
            )
        return graph.to(dtype=self.dtype)

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; kept in the configuration under the published names."""
        normalizer = {
            "energy": {"mean": mean, "std": energy},
            "forces": {"mean": 0.0, "std": forces},
        }
        table = None
        if references:
            table = [float(references.get(z, 0.0)) for z in range(self.config["max_num_elements"])]
            self.elements_energy = torch.tensor(table, dtype=self.dtype, device=self.device)
        else:
            self.elements_energy = None
        self.scale = read_normalizers(normalizer)
        self.config = {**self.config, "normalizer": normalizer, "element_references": table}

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """As :meth:`Potential.shift_references`."""
        table = list(self.config["element_references"] or [0.0] * self.config["max_num_elements"])
        for z, value in shift.items():
            table[z] += float(value)
        self.elements_energy = torch.tensor(table, dtype=self.dtype, device=self.device)
        self.config = {**self.config, "element_references": table}

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``; heads and gradients that nobody asks for are left out."""
        if not self.gradient:
            direct = self.direct and any(p.startswith("forces") for p in properties)
            return self._evaluate(graph, direct)
        forces, stress = "forces" in properties, "stress" in properties
        with torch.set_grad_enabled(self.training or forces or stress):
            result = gradients(
                self._evaluate, graph, forces=forces, stress=stress, keep=self.training
            )
        return result if self.training else {k: v.detach() for k, v in result.items()}

    def _evaluate(self, graph: AtomGraph, forces: bool = False) -> dict[str, Tensor]:
        copies, atoms = self.frames, graph.num_atoms
        exact = torch.autocast(graph.positions.device.type, enabled=False)
        with exact:  # rotations and sums keep their precision where the layers are told not to
            near = self._neighbors(graph)

        # Copies with other frames go through as one batch.
        x = self._states(graph.atomic_numbers.repeat(copies), near)
        with exact:
            energies, force = self._read_out(x, forces)
        structures = graph.batch.repeat(copies)
        if copies > 1:
            number = torch.arange(copies, device=x.device).repeat_interleave(atoms)
            structures = structures + number * graph.num_structures
        mean, std = self.scale["energy"]
        total = energies.new_zeros(copies * graph.num_structures).index_add(0, structures, energies)
        total = total.view(copies, -1) * std + mean
        if self.elements_energy is not None:
            # In float64: thousands of eV have no meV in float32.
            own = self.elements_energy.double()[graph.atomic_numbers]
            total = total.double()
            total = total + torch.zeros_like(total[0]).index_add(0, graph.batch, own)
        result = _over_frames("energy", total)
        if force is not None:
            mean, std = self.scale["forces"]
            # The head averages over points of a sphere, which leaves a rest where nothing pulls.
            alone = torch.bincount(graph.edge_index[1], minlength=atoms) == 0
            force = (force.view(copies, -1, 3) * std + mean).masked_fill(alone[:, None], 0.0)
            result |= _over_frames("forces", force)
        return result

    def _neighbors(self, graph: AtomGraph) -> list[Neighbors]:
        """Return the neighbor table of each resolution, for ``frames`` copies of the graph."""
        atoms, copies = graph.num_atoms, self.frames
        if graph.num_edges == 0:
            return [empty_table(atoms * copies, graph.positions) for _ in self.degrees]

        vectors = graph.edge_vectors()
        distance = vectors.norm(dim=1)
        rank = ranks(graph.edge_index[1], distance, atoms)
        frames = self._frames(graph, vectors / distance[:, None])
        rows = self._rows(frames)

        offset = torch.arange(copies, device=rank.device)[:, None] * atoms
        source, target = ((end + offset).flatten() for end in graph.edge_index)
        rank, distance = rank.repeat(copies), distance.repeat(copies)

        tables = []
        for number, lmax in enumerate(self.degrees):
            first = NEAREST * number
            inside = rank >= first
            if number + 1 < len(self.degrees):
                inside &= rank < first + NEAREST
            edges = inside.nonzero()[:, 0]
            if len(edges) == 0:
                tables.append(empty_table(atoms * copies, graph.positions))
                continue

            layout = degrees(lmax, self.mmax)
            tables.append(
                table(
                    target[edges],
                    source[edges],
                    rank[edges] - first,
                    distance[edges],
                    rows[edges, :, : layout[-1].entries.stop],
                    layout,
                    atoms * copies,
                )
            )
        return tables

    def _frames(self, graph: AtomGraph, unit: Tensor) -> Tensor:
        """Return frames (copies * E, 3, 3) of unit edge vectors (E, 3)."""
        drawn = graph.extra.get("edge_random")
        if drawn is None and self.training and self.random_training:
            drawn = torch.rand_like(unit)
        if drawn is None:
            return torch.cat([structure_frames(graph, unit, k) for k in range(self.frames)])
        frames = frames_about(unit, drawn_reference(unit, drawn.to(unit)))
        if self.frames == 1:
            return frames
        # Copies of a draw are turned by equal steps, which fill the angle between two taps.
        step = 2 * math.pi / (self.taps * self.frames)
        angle = torch.arange(self.frames, device=unit.device, dtype=unit.dtype) * step
        return turn(frames.repeat(self.frames, 1, 1), angle.repeat_interleave(len(unit)))

    def _rows(self, frames: Tensor) -> Tensor:
        """Return rotation rows (E, T, P): the frame of each edge turned for each tap."""
        angle = torch.arange(self.taps, device=frames.device, dtype=frames.dtype) * (math.pi / 2)
        edges = len(frames)
        turned = turn(frames.repeat_interleave(self.taps, 0), angle.repeat(edges))
        rows: Tensor = self.rotation(turned)
        return rows.view(edges, self.taps, -1)

    def _states(self, atomic_numbers: Tensor, near: list[Neighbors]) -> Tensor:
        x: Tensor = self.sphere_embedding(atomic_numbers)[
            :, None
        ]  # degree 0; the others are zero yet
        expanded = [self.distance_expansion(n.distance) for n in near]
        for number, block in enumerate(self.edge_blocks):
            change = block(x, atomic_numbers, expanded, near, self.update).to(x.dtype)
            x = change if number == 0 else x + change
        return x

    def _read_out(self, x: Tensor, forces: bool) -> tuple[Tensor, Tensor | None]:
        """Return energies (N,) and, if wanted, forces (N, 3) from states at the sample points."""
        heads = ["energy", "force"] if forces else ["energy"]
        first = [getattr(self, f"{head}_fc1") for head in heads]
        weight = torch.cat([layer.weight for layer in first])
        bias = torch.cat([layer.bias for layer in first])
        energies, force = [], []
        for part in parts(x, 2 * len(self.points) * len(bias)):
            mixed = nn.functional.linear(x[part], weight)
            values = activate(self.point_harmonics @ mixed + bias).chunk(len(heads), dim=-1)
            energies.append(self.energy_fc3(activate(self.energy_fc2(values[0])).mean(1))[:, 0])
            if forces:
                strength = self.force_fc3(activate(self.force_fc2(values[1])))[:, :, 0]
                force.append(strength @ self.points / len(self.points))
        return torch.cat(energies), torch.cat(force) if forces else None


def _over_frames(name: str, values: Tensor) -> dict[str, Tensor]:
    """Mean over the first axis, and the standard deviation where there is more than one frame."""
    if len(values) == 1:
        return {name: values[0]}
    return {name: values.mean(0), f"{name}_std": values.std(0)}


def check(config: Mapping[str, Any]) -> None:
    """Refuse values that no published configuration can have.

    Raises
    ------
    ConfigError
    """
    wrong = None
    if config["mmax"] not in (0, 1):
        wrong = f"mmax must be 0 or 1, not {config['mmax']}"
    elif config["num_resolutions"] not in (1, 2):
        wrong = f"num_resolutions must be 1 or 2, not {config['num_resolutions']}"
    elif config["num_resolutions"] == 2 and config["lmax"] < 4:
        wrong = f"two resolutions need lmax of at least 4, not {config['lmax']}"
    elif not 0 <= config["mmax"] <= config["lmax"] <= 32:
        wrong = f"lmax must lie between mmax and 32, not {config['lmax']}"
    elif not 1 <= config["num_bands"] <= config["lmax"] + 1:
        wrong = f"num_bands must lie between 1 and lmax + 1, not {config['num_bands']}"
    elif int(config["num_interactions"]) < 1:
        wrong = f"num_interactions must be at least 1, not {config['num_interactions']}"
    elif config["forces"] not in ("direct", "gradient"):
        wrong = f"forces must be 'direct' or 'gradient', not {config['forces']!r}"
    elif int(config["frames"]) < 1:
        wrong = f"frames must be at least 1, not {config['frames']}"
    if wrong:
        raise ConfigError(f"SCN: {wrong}.")
