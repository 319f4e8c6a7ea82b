"""The Python API: `run` trains and reads runs, `policy` acts, `overrides` changes experiments by keywords. `mtrl` names what is public."""
