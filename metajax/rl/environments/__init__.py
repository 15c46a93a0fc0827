"""Games to learn to play: each a distribution of tasks."""

from metajax.rl.environments.adapters import from_pgx as from_pgx
from metajax.rl.environments.adapters import from_xminigrid as from_xminigrid
from metajax.rl.environments.adapters import minigrid_rules as minigrid_rules
from metajax.rl.environments.bandit import bernoulli_bandit as bernoulli_bandit
from metajax.rl.environments.bandit import gaussian_bandit as gaussian_bandit
from metajax.rl.environments.key_door import Maze as Maze
from metajax.rl.environments.key_door import key_door as key_door
from metajax.rl.environments.misere import or_misere as or_misere
from metajax.rl.environments.navigation import navigation as navigation
from metajax.rl.environments.navigation import original_goals as original_goals
from metajax.rl.environments.tabular_mdp import TabularMDP as TabularMDP
from metajax.rl.environments.tabular_mdp import tabular_mdp as tabular_mdp
from metajax.rl.environments.tic_tac_toe import all_rules as all_rules
from metajax.rl.environments.tic_tac_toe import split_rules as split_rules
from metajax.rl.environments.tic_tac_toe import tic_tac_toe as tic_tac_toe
