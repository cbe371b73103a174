"""Everything that is computed from a study before anything is drawn."""
