from . import bart as bart
from . import coils as coils
from . import crb as crb
from . import models as models
from . import phantom as phantom
from . import testing as testing
from . import threads as threads
from .assess import assess as assess
from .basis import Basis as Basis
from .batches import iter_batches as iter_batches
from .dictionary import Dictionary as Dictionary
from .dictionary import compress as compress
from .encoding import SubspaceOperator as SubspaceOperator
from .errors import UserError as UserError
from .fit.matching import match as match
from .fit.result import Maps as Maps
from .fold import BasisAccumulator as BasisAccumulator
from .images import CoefficientImages as CoefficientImages
from .model import Batch as Batch
from .model import Parameter as Parameter
from .model import SignalModel as SignalModel
from .pipeline import Config as Config
from .pipeline import reconstruct_stream as reconstruct_stream
from .prior import Prior as Prior
from .recon import reconstruct as reconstruct
from .training import compute_basis as compute_basis

__version__: str
