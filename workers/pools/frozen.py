"""Imported last by the fork server, so that its workers share what it has imported.

A full collection of Python's garbage writes to every object that it visits, and so copies the pages
of all modules into each worker's own memory. Frozen objects are not visited.
"""

import gc

gc.collect()
gc.freeze()
