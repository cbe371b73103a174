"""Pools of workers: in this process, local processes, Ray."""
