"""What a model is, how to get one and how to run it."""

from ase_nnp.models import forking as forking
