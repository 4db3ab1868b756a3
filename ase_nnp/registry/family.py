"""What a plugin hands over: known before any model code is imported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["API_VERSION", "DatasetFormat", "ModelFamily", "Pretrained", "UncertaintyMethod"]

#: The plugin interface of this release. A plugin that asks for a newer one is listed, not loaded.
API_VERSION = 1
#: What the energies of a family may be; ``config`` where its configuration decides.
ENERGY_KINDS = ("total", "adsorption", "formation", "none", "config")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One set of trained weights that a family offers by name.

    ``source`` is a path relative to the plugin's package, ``"package:path"`` for a file inside
    another installed package, or a URL with ``sha256``. ``card`` is the path of a model card in
    Markdown, relative to the plugin's package. One of the installed models may be the
    ``default``: what ``NNPCalculator()`` without a name loads, with the fitted ``uncertainty`` (a
    path like that of the card) on it.

    What is left out, or None, is as the family says: ``license`` of these weights, the exchange-
    correlation ``functional`` and data set of the training, the symbols of the ``elements``,
    ``energy_kind`` and to what the energy is referenced, ``cutoff`` in Angstrom, ``outputs``, and
    ``bibtex`` of the weights where they have a publication beside the family's.
    """

    name: str
    summary: str
    source: str
    sha256: str | None = None
    size_mb: float | None = None
    license: str = "not stated"
    functional: str = "not stated"
    training_data: str = "not stated"
    elements: tuple[str, ...] | None = None
    card: str = ""
    default: bool = False
    uncertainty: str = ""
    energy_kind: str = ""
    energy_reference: str = ""
    cutoff: float | None = None
    outputs: tuple[str, ...] = ()
    bibtex: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """A kind of model: its name, what is known of it, and how to make one.

    Parameters
    ----------
    name
        What users write: ``NNPCalculator("lj")``.
    summary
        One line.
    build
        ``build(config) -> Potential`` with fresh weights. ``config`` holds the keys of
        ``defaults`` updated by the user's, nothing else. Import torch inside.
    load
        ``load(path, **options) -> Potential`` for the checkpoint formats that users already hold;
        raises CheckpointError for a file it does not know.
    knows
        ``knows(words) -> bool``: whether a checkpoint with these words (keys, names of tensors,
        globals: :func:`ase_nnp.files.outline.checkpoint_words`) is one that ``load`` reads. A
        family without it is asked to load every file whose family is not named.
    locate
        ``locate(name) -> path`` of a published model that is not listed in ``pretrained``, in
        whatever cache its users have; raises CheckpointError saying how to get it. A family with
        this may be given folders as checkpoints.
    defaults
        Every hyper-parameter with its default; a key that is not here is refused.
    ignored
        Published keys without effect on the numbers (``show_timing_info``); accepted and dropped.
    config_extras
        Keys beside ``"model"`` in a published config file that count.
    cite, bibtex, license, weights_license
        Reference of the method, as an address and as BibTeX; license of the code and of published
        weights.
    requires, install
        Packages without which the family cannot be built, as they are imported, and the command
        that installs them where ``pip install`` with the same names does not.
    cutoff, elements, pbc, required_inputs
        Angstrom; atomic numbers, or None for no fixed set; ``"any"`` or what is special about the
        periodicity; what is read beside geometry (``charge``, ``spin``, ``tags``). All with the
        default configuration.
    functional, training_data
        Of the published weights.
    energy_kind
        What ``energy`` is: ``"total"``, ``"adsorption"``, ``"none"`` (a property model) or
        ``"config"`` when the configuration decides; the loaded potential is the authority.
    energy_reference
        To what a referenced energy is referenced.
    conservative
        Whether forces are the gradient of the energy; None where the configuration decides.
    violations
        Measured departures from exact symmetry by the name of the conformance check, as the
        relative tolerance that the check must use, with the reason in ``notes``.
    pretrained
        Weights that are offered by name.
    outputs
        What its models give.
    trainable
        Whether training makes sense.
    test_config
        A small configuration for tests.
    notes
        What a user should know.
    """

    name: str
    summary: str
    build: Callable[[dict[str, Any]], Potential]
    load: Callable[..., Potential] | None = None
    knows: Callable[[frozenset[str]], bool] | None = None
    locate: Callable[[str], Path] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: Collection[str] = ()
    config_extras: Collection[str] = ("normalizer", "heads", "species", "generation")
    cite: str = ""
    license: str = "MIT"
    weights_license: str = "none published"
    pretrained: tuple[Pretrained, ...] = ()
    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    energy_kind: str = "total"
    conservative: bool | None = True
    trainable: bool = True
    requires: tuple[str, ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    test_config: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    bibtex: str = ""
    install: str = ""
    cutoff: float | None = None
    elements: Collection[int] | None = None
    pbc: str = "any"
    required_inputs: tuple[str, ...] = ()
    energy_reference: str = ""
    functional: str = "not stated"
    training_data: str = "not stated"

    def __post_init__(self) -> None:
        """Refuse what would be noticed late, or never, while its author is still there."""
        check_offer(self)
        if self.energy_kind not in ENERGY_KINDS:
            raise PluginError(
                f"'{self.name}': energy_kind is {self.energy_kind!r}; "
                f"wanted: {', '.join(ENERGY_KINDS)}."
            )

    @property
    def package(self) -> str:
        """The plugin's importable package, relative to which its files are named."""
        return self.build.__module__.partition(".")[0]


def check_offer(offer: Any) -> None:
    """Check the fields that a family and a correction share.

    Raises
    ------
    PluginError
        Naming the field.
    """
    wrong = {
        "build": (callable(offer.build), "a function build(config)"),
        "elements": (
            offer.elements is None
            or (
                isinstance(offer.elements, Collection)
                and all(isinstance(z, Integral) for z in offer.elements)
            ),
            "atomic numbers, or None",
        ),
    }
    for key in ("defaults", "test_config", "violations"):
        wrong[key] = isinstance(getattr(offer, key), Mapping), "a dictionary"
    for key, (good, wanted) in wrong.items():
        if not good:
            raise PluginError(
                f"'{offer.name}': {key} is {getattr(offer, key)!r:.80}; wanted: {wanted}."
            )


@dataclass(frozen=True, kw_only=True)
class DatasetFormat:
    """A kind of dataset file: how to recognize, open and write it.

    Parameters
    ----------
    name, summary
        What users write in ``format=``, and one line.
    sniff
        ``sniff(path) -> bool``: whether this *file* is of this format, judged by its content.
        Cheap, never raises on a foreign or damaged file.
    open
        ``open(files, **options) -> AtomsDataset`` for the sorted files of one dataset.
    write
        ``write(path, iterable_of_atoms, **options)`` or None for a read-only format.
    suffixes
        Usual endings; choose the format for writing, and break ties when sniffing damaged files.
    """

    name: str
    summary: str
    sniff: Callable[[Path], bool]
    open: Callable[..., Sequence[Atoms]]
    write: Callable[..., None] | None = None
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UncertaintyMethod:
    """A way to attach error bars to potentials.

    ``wrap(potentials, **options) -> Potential`` returns a potential whose outputs hold ``*_std``.
    """

    name: str
    summary: str
    wrap: Callable[..., Potential]
    cite: str = ""


RegisterModel = Callable[[ModelFamily], None]
RegisterDataset = Callable[[DatasetFormat], None]
RegisterUncertainty = Callable[[UncertaintyMethod], None]
