"""One module for each command. Torch, Ray and the environments are imported where one needs them: `--help` must not take seconds."""
