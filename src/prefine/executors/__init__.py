"""Executors: where the shards of a stage are worked on, in this process or by others."""
