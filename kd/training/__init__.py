"""Training, its teacher, and how a network is evaluated."""
