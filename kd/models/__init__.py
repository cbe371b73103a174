"""Networks: model families, feature taps, pretrained weights, numerics and cost."""
