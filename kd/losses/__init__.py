"""Losses on logits and on features."""
