"""The one training loop for every optimizer, with checkpoints that resume to the bit."""

from optimiz.training.batches import padded as padded
from optimiz.training.batches import shuffled as shuffled
from optimiz.training.calibrate import calibrate as calibrate
from optimiz.training.calibrate import measure as measure
from optimiz.training.clock import Clock as Clock
from optimiz.training.environment import environment as environment
from optimiz.training.loop import Diverged as Diverged
from optimiz.training.loop import Progress as Progress
from optimiz.training.loop import Result as Result
from optimiz.training.loop import fit as fit
from optimiz.training.metrics import read_metrics as read_metrics
from optimiz.training.preemption import EXIT_PREEMPTED as EXIT_PREEMPTED
from optimiz.training.preemption import Preempted as Preempted
from optimiz.training.reference import Reference as Reference
from optimiz.training.reference import Timing as Timing
from optimiz.training.reference import Work as Work
from optimiz.training.run_directory import RunError as RunError
from optimiz.training.run_directory import claimed as claimed
from optimiz.training.settings import Settings as Settings
from optimiz.training.task import Task as Task
from optimiz.training.task import mean_loss as mean_loss
