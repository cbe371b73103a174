"""The search by promotion: short runs first, the best go on, a Gaussian process proposes."""
