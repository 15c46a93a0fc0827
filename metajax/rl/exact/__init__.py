"""Exact optima of environments, and policies that need no learning."""

from metajax.rl.exact.bandits import bandit_optimum as bandit_optimum
from metajax.rl.exact.bandits import best_arm_posterior as best_arm_posterior
from metajax.rl.exact.bandits import gittins_indices as gittins_indices
from metajax.rl.exact.belief_play import belief_play as belief_play
from metajax.rl.exact.key_door import key_door_optimum as key_door_optimum
from metajax.rl.exact.navigation import navigation_optimum as navigation_optimum
from metajax.rl.exact.policies import Counts as Counts
from metajax.rl.exact.policies import gittins as gittins
from metajax.rl.exact.policies import greedy as greedy
from metajax.rl.exact.policies import random_policy as random_policy
from metajax.rl.exact.policies import thompson as thompson
from metajax.rl.exact.policies import ucb1 as ucb1
from metajax.rl.exact.tabular import MDPReturns as MDPReturns
from metajax.rl.exact.tabular import mdp_optimum as mdp_optimum
from metajax.rl.exact.tic_tac_toe import TicTacToeReturns as TicTacToeReturns
from metajax.rl.exact.tic_tac_toe import tic_tac_toe_returns as tic_tac_toe_returns
