"""Reinforcement learning: images are generated, rewarded, and learnt from."""
