"""Uncertainty methods: potentials that wrap potentials and add ``*_std``."""

from __future__ import annotations
