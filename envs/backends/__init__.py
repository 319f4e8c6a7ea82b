"""What steps environments: Gymnasium's loop, EnvPool, and several backends joined."""
