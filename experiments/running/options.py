"""How a run is made: where, how long, how often and on what; nothing that it trains."""

from pathlib import Path
from typing import NamedTuple


class Options(NamedTuple):
    """What the engine is asked for; flags of the same names say what each is."""

    workdir: Path
    num_steps: int = 1000
    log_every_steps: int = 100
    eval_every_steps: int = 1000
    keep_checkpoints: int = 2
    seed: int = 0
    num_seeds: int = 1
    initial_params: str | None = None
    num_devices: int | None = None
    divide_state: bool = False
    platform: str = "auto"
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    compilation_cache: str | None = None
    eval_only: bool = False
    dry_run: bool = False

    @property
    def seeds(self) -> range:
        """The seeds that the run trains."""
        return range(self.seed, self.seed + self.num_seeds)
