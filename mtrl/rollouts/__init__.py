"""From weights and shares to rollouts: acting, collecting, allocation of slots, sources."""
