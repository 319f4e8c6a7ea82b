"""Backends that step environments: Gymnasium's in a loop, EnvPool's in threads, and several backends joined."""
