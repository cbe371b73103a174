"""What every test shares: one thread, since bits on a CPU depend on their number, and Ctrl-C.

A shell starts what runs in its background with SIGINT ignored, which the supervisors of the tests
would inherit.
"""

import signal

import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
