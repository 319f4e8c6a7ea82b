"""Rollouts from weights and shares: inference, collecting, allocation of slots, sources."""
