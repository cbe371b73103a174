"""Inputs and labels: where they come from, how they are split, augmented and fed to a network."""
