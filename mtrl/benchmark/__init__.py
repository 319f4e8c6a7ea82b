"""Measurements that are commands: speed, learning, endurance."""
