"""Engines run one task a shard; nothing else."""
