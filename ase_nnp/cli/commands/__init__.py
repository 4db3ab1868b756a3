"""The commands of ``ase-nnp``, one file each; heavy imports stay inside the functions."""
