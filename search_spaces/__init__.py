"""Search spaces propose recipes; each file is one space, and `space.py` loads them."""
