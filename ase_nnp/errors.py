"""Every error that this package raises on purpose.

::

    AseNnpError
        RegistryError           a plugin or a name in the registry
            UnknownModelError   no family, format or file of that name
            PluginError         the plugin is there and cannot be used
                NameTakenError      another plugin has that name
                NewerPluginError    it asks for a newer plugin interface
        ConfigError             hyper-parameters that a family does not take
        CheckpointError         a weights file that cannot be read or does not fit
            DownloadError       weights that cannot be had from the network, or are not as announced
        UnsafeFileError         a file that asks for code to be run (also a DatasetError)
        DatasetError            a dataset, or one record of it
            QueryError          a question to an index that is no query
        StructureError          atoms that cannot be meant (NaN, no atoms, cell without volume)
            UnsupportedElementError
        PredictionError         a model returned something that is no answer
            WorkerError         a model in another environment cannot be reached, or failed there
        TaskError               one structure of many, named, and what went wrong with it
        UncertaintyError        numbers that no error bar can be made from
        TrainingError           a training that cannot go on, with the reason

A message says what was found, what was wanted and what to do next; ``guide`` names the page that
explains more, and stands under the message in a traceback.
"""

from __future__ import annotations

__all__ = [
    "AseNnpError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "DownloadError",
    "NameTakenError",
    "NewerPluginError",
    "PluginError",
    "PredictionError",
    "QueryError",
    "RegistryError",
    "StructureError",
    "TaskError",
    "TrainingError",
    "UncertaintyError",
    "UnknownModelError",
    "UnsafeFileError",
    "UnsupportedElementError",
    "WorkerError",
]


class AseNnpError(Exception):
    """Anything this package refuses; catch this to catch all of them.

    Attributes
    ----------
    guide
        The page of the documentation that explains it, such as ``docs/datasets.md``; or empty.
    """

    guide: str = ""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if self.guide:
            self.add_note(f"See {self.guide} in the documentation of ase_nnp.")


class RegistryError(AseNnpError):
    """The registry cannot do what was asked."""

    guide = "docs/models.md"


class UnknownModelError(RegistryError, LookupError):
    """A name that no installed plugin offers."""


class PluginError(RegistryError):
    """A plugin that is installed and cannot be used; carries its own reason."""

    guide = "docs/write-a-plugin.md"


class NameTakenError(PluginError):
    """A plugin offers something under a name that another plugin has already."""


class NewerPluginError(PluginError):
    """A plugin asks for a newer plugin interface than this release has."""


class ConfigError(AseNnpError, ValueError):
    """Hyper-parameters that are unknown, missing or out of range."""


class CheckpointError(AseNnpError):
    """A weights file that is damaged, of an unknown layout, or does not fit the model."""

    guide = "docs/models.md"


class DownloadError(CheckpointError):
    """Weights that cannot be fetched, or that differ from what their plugin announced."""


def _shortened(text: str, most: int = 2000) -> str:
    """Leave out the middle of what quotes a damaged file at length."""
    if len(text) <= most:
        return text
    head, tail = text[: most * 3 // 4], text[-most // 4 :]
    return f"{head} [... {len(text) - len(head) - len(tail):,} characters ...] {tail}"


class DatasetError(AseNnpError):
    """A dataset that cannot be opened, or a record that cannot be decoded.

    Parameters
    ----------
    message
        What was found and what was wanted.
    path
        The file, if there is one.
    key
        The record inside the file (LMDB key, row id, frame number), if known.
    """

    guide = "docs/datasets.md"

    def __init__(self, message: str, *, path: object = None, key: object = None) -> None:
        self.path, self.key = path, key
        where = "" if path is None else f"{path}: "
        where += "" if key is None else f"record {_shortened(repr(key))}: "
        super().__init__(where + _shortened(message))


class QueryError(DatasetError, ValueError):
    """A query of a dataset's index that cannot be understood; the message names the place."""

    guide = "docs/datasets.md#asking-a-dataset"


class UnsafeFileError(CheckpointError, DatasetError):
    """A file asked for an object that could run code; the message names it."""

    guide = "docs/security.md"


class StructureError(AseNnpError, ValueError):
    """Atoms that no model can answer for."""

    guide = "docs/calculator.md"


class UnsupportedElementError(StructureError):
    """An element that the model was not made for."""


class PredictionError(AseNnpError, RuntimeError):
    """A model's answer is not finite or has the wrong shape."""

    guide = "docs/calculator.md"


class TaskError(AseNnpError, RuntimeError):
    """A function that was mapped over many structures failed for one of them."""

    guide = "docs/scale.md"


class WorkerError(PredictionError):
    """A model in an environment of its own died, cannot be reached, or raised."""

    guide = "docs/models.md"


class UncertaintyError(AseNnpError, ValueError):
    """Arrays, members or settings that an uncertainty cannot be computed from."""

    guide = "docs/uncertainty.md"


class TrainingError(AseNnpError, RuntimeError):
    """A training that learns nothing or has broken down; the message names what was seen."""

    guide = "docs/training.md"
