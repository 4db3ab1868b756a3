"""An empty matplotlib figure, drawn without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure"]


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches.

    Raises
    ------
    ConfigError
        matplotlib is not installed.
    """
    # pyplot would look for a display and keep each figure until it is closed.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Pictures need matplotlib; install it with: pip install ase_nnp[plot]"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
