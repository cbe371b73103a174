"""Pools of workers: in this process, as local processes, or on Ray."""
