"""Networks: families, taps, weights, layout and cost."""
