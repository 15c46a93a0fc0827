"""Learning to play: meta-reinforcement learning, from one command line."""
