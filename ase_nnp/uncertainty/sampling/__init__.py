"""Sampling the weights of a model from their posterior by stochastic-gradient Markov chains."""

from __future__ import annotations
