"""What every test shares: one thread, since bits on a CPU depend on their number."""

import torch

torch.set_num_threads(1)
