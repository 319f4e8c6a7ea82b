"""Evaluation: protocols say how, runner does it, statistics says how sure one can be."""
