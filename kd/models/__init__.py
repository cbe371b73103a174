"""Networks: families of models, where features are read, pretrained weights and cost."""
