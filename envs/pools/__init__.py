"""EnvPool's environments as tasks: what there is, how their observations and actions become ours, and suites of them."""
