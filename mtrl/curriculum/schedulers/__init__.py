"""Curriculum schedulers, one file for each."""
