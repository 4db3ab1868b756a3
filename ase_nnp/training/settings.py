"""What a training run can be told: one frozen pydantic model a topic, unknown keys refused."""

from __future__ import annotations

from typing import Any, Literal

try:
    from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
except ImportError as error:  # an extra, so say which
    raise ImportError("Training needs pydantic: pip install ase_nnp[train]") from error

__all__ = ["Batch", "Loss", "Losses", "Optimizer", "Schedule", "Settings"]

Kind = Literal["mse", "mae", "huber", "l2mae"]


class _Part(BaseModel):
    # Infinity passes every lower bound and ends in a loss that is not a number.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Loss(_Part):
    """One term of the loss: ``weight * mean rho(prediction - label)``, in eV and Angstrom.

    ``mse`` and ``mae`` are means over components, ``huber`` is quadratic up to ``delta`` and linear
    beyond, ``l2mae`` is the mean length of the difference vectors (forces) or matrices (stress).
    The weight goes from ``weight`` to ``final_weight`` along a straight line in the logarithm
    (``"geometric"``) or in the number (``"linear"``), or changes at ``switch_at``, a fraction of
    the run (``"switch"``).
    """

    kind: Kind = "mse"
    weight: NonNegativeFloat = 1.0
    final_weight: NonNegativeFloat | None = None
    weight_schedule: Literal["geometric", "linear", "switch"] = "geometric"
    switch_at: float = Field(default=0.75, ge=0.0, le=1.0)
    delta: PositiveFloat = 0.01


class Energy(Loss):
    """The energy term; ``per_atom`` divides the difference by the number of atoms first."""

    per_atom: bool = True


class Forces(Loss):
    """The force term; ``free_atoms_only`` leaves out atoms held by FixAtoms."""

    weight: NonNegativeFloat = 10.0
    free_atoms_only: bool = True


class Losses(_Part):
    """Terms of the loss; None leaves one out. ``scalars`` are named properties of structures,
    with labels in ``atoms.info`` under the same name.
    """

    energy: Energy | None = Energy()
    forces: Forces | None = Forces()
    stress: Loss | None = None
    scalars: dict[str, Loss] = Field(default_factory=dict)


class Batch(_Part):
    """Size of the global batch, shared by all processes: one of three measures.

    ``structures`` counts; ``atoms`` and ``edges`` are budgets that batches of structures of mixed
    sizes fill evenly.
    """

    structures: PositiveInt | None = None
    atoms: PositiveInt | None = None
    edges: PositiveInt | None = None
    validation_atoms: PositiveInt = 2000


class Optimizer(_Part):
    """The optimizer and how far it may go in a step.

    ``layer_rates`` are factors of ``lr`` by pattern of parameter names (``fnmatch``); the first
    that fits counts. ``clip`` bounds the norm of the whole gradient. ``muon`` is Muon for
    matrices, with four times ``lr``, and AdamW for the rest
    (:func:`ase_nnp.training.optimizers.muon_with_adamw`).
    """

    name: Literal["adamw", "adam", "sgd", "core", "muon"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    amsgrad: bool = False
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    clip: PositiveFloat | None = 10.0
    layer_rates: dict[str, NonNegativeFloat] = Field(default_factory=dict)


class Schedule(_Part):
    """The learning rate over the run, as a factor of ``optimizer.lr``.

    ``warmup`` is the part of the run, or with a number above 1 the steps, over which the rate
    grows from nothing. ``plateau`` multiplies by ``factor`` after ``patience`` epochs without
    a better validation loss. Rates end at ``floor``, a factor too.
    """

    kind: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: NonNegativeFloat = 0.02
    floor: NonNegativeFloat = 1e-3
    factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    patience: PositiveInt = 10


class Settings(_Part):
    """How to fit: losses, batches, optimizer, schedule, and when to stop.

    Parameters
    ----------
    references
        Energies of free atoms that the network need not learn: ``"fit"`` by least squares,
        ``"none"``, a mapping of symbols to eV, ``"keep"`` for those the model has, or ``"auto"``.
        With fresh weights that is fit for total energies, none for adsorption energies; a trained
        model keeps its own, shifted where the labels come from another functional: if that halves
        the error of the energy an atom.
    shift
        With given references, add the mean residual an atom to each of them.
    epochs, minutes
        The end, by epochs or by wall time since the start of this call.
    patience
        Epochs without a better validation loss before the run stops; None never stops early.
    keep_learnt
        With a trained model to start from, stop with the reason if the first epoch doubles an error
        of the untouched model.
    heads
        Read-outs of a committee trained together with the model, whose energies they give a spread
        (``heads.uq`` beside ``model.nnp``); 1 trains none.
    ema
        Decay of the average of the weights that is validated and saved; 0 does without.
    precision
        ``"bf16"`` computes layers in bfloat16 where torch thinks that safe; default full.
    cache_mb
        Memory for graphs that are built once; the rest is rebuilt each epoch.
    validate_every, checkpoint_every
        Epochs; and steps between checkpoints inside an epoch, or None.
    devices, nodes, accelerator
        As Lightning's Fabric has them; more than one device trains data-parallel.
    batch, workers
        Size of a batch, and processes that prepare batches.
    losses, optimizer, schedule
        Settings of each.
    seed
        Of the order of batches.
    progress, tensorboard
        Show a bar; write TensorBoard's files.
    """

    losses: Losses = Losses()
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    references: Literal["auto", "fit", "none", "keep"] | dict[str, float] = "auto"
    shift: bool = True
    epochs: PositiveInt = 100
    minutes: PositiveFloat | None = None
    patience: PositiveInt | None = None
    keep_learnt: bool = True
    heads: PositiveInt = 1
    ema: float = Field(default=0.99, ge=0.0, lt=1.0)
    precision: Literal["bf16"] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    workers: int = Field(default=0, ge=0, le=256)
    cache_mb: float = Field(default=2000.0, ge=0.0)
    validate_every: PositiveInt = 1
    checkpoint_every: PositiveInt | None = None
    devices: PositiveInt | Literal["auto"] = 1
    nodes: PositiveInt = 1
    accelerator: str = "auto"
    tensorboard: bool = False
    progress: bool = True

    def wanted(self) -> tuple[str, ...]:
        """Return the properties that have a term in the loss."""
        terms: dict[str, Any] = {n: getattr(self.losses, n) for n in ("energy", "forces", "stress")}
        return tuple([n for n, t in terms.items() if t is not None] + list(self.losses.scalars))
