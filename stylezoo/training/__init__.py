"""What no paper has, attached to a model from outside: initialization, optimizers, distillation, callbacks."""

from stylezoo.training.callbacks import (
    EMA,
    ChannelsLast,
    Compile,
    ImageGrid,
    ImageWriter,
    RunProgressBar,
    RunSummary,
    Winograd,
)
from stylezoo.training.cast import CAST
from stylezoo.training.ccpl import CCPL
from stylezoo.training.distillation import Distillation, Imitation
from stylezoo.training.finite import NonFiniteError
from stylezoo.training.iecontraast import Adversarial, IEContraAST
from stylezoo.training.initialization import Initialization, LeastSquares, Pruning
from stylezoo.training.optimizers import OptimizerSettings, PreconditionedAdam
from stylezoo.training.run import guarded
from stylezoo.training.saving import RunCheckpoint, SavingError
from stylezoo.training.slim_encoder import SlimEncoder
from stylezoo.training.training import Training

__all__ = [
    "CAST",
    "CCPL",
    "EMA",
    "Adversarial",
    "ChannelsLast",
    "Compile",
    "Distillation",
    "IEContraAST",
    "ImageGrid",
    "ImageWriter",
    "Imitation",
    "Initialization",
    "LeastSquares",
    "NonFiniteError",
    "OptimizerSettings",
    "PreconditionedAdam",
    "Pruning",
    "RunCheckpoint",
    "RunProgressBar",
    "RunSummary",
    "SavingError",
    "SlimEncoder",
    "Training",
    "Winograd",
    "guarded",
]
