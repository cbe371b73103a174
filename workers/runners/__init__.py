"""Jobs and what runs them, one module a kind."""
