"""Shape annotations are checked while the tests run."""
