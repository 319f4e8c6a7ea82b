"""What is known of a suite before a long run: `suite` inspects its tasks, `advice` says which settings fit them."""
