"""Standard synthetic data sets: definitions, making and verifying them, hashes of scenarios, what to tell of one."""
