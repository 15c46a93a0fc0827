"""The engine: runs experiments, which are values, and knows nothing else of them."""

from experiments.running.engine import run as run
from experiments.running.engine import run_each as run_each
from experiments.running.experiment import Experiment as Experiment
from experiments.running.experiment import Layout as Layout
from experiments.running.measuring import TEST as TEST
from experiments.running.measuring import VALIDATION as VALIDATION
from experiments.running.measuring import Measure as Measure
from experiments.running.measuring import Measurement as Measurement
from experiments.running.measuring import Metric as Metric
from experiments.running.measuring import on_tasks as on_tasks
from experiments.running.measuring import rows as rows
from experiments.running.measuring import short as short
from experiments.running.measuring import side_by_side as side_by_side
from experiments.running.measuring import table as table
from experiments.running.options import Options as Options
from experiments.running.workdirs import Settings as Settings
