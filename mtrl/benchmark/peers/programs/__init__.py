"""Programs that run in the virtual environments of other trainers, and import nothing of this project."""
