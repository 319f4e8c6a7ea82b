"""Task suites, one file for each family."""
