"""Meta-reinforcement learning: tasks are games, and their data what a policy collects."""
