"""Noise schedules, training objectives and samplers. The network is always an argument."""
