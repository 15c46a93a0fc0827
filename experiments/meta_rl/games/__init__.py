"""The games, one a file: their flags, their tasks, and what is known of them."""

from experiments.defining import gathered

NAMES = (
    "bandit",
    "gaussian_bandit",
    "tabular_mdp",
    "navigation",
    "tic_tac_toe",
    "key_door",
    "connect_four",
    "minigrid",
)
GAMES = gathered(__name__, "GAME", NAMES)
