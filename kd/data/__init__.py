"""Images and labels: sources, splits, and the views that augment them."""
