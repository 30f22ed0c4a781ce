"""Training puts the rooms together: step loop, parallel processes, checkpoints, logs, runs opened again.

``launch.train_from_config`` is what the script calls; it is imported from its module, so that opening a run does
not import the trainer.
"""

from coop3d.training.checkpoint import CheckpointError, load_checkpoint
from coop3d.training.run import Run, load_run

__all__ = ["CheckpointError", "Run", "load_checkpoint", "load_run"]
