"""Families of task suites, one file for each; `chaos` adds failures to any suite."""
