"""Measurements that are run by hand; each module says how in its first lines."""
