"""CRB-optimised subspaces for quantitative MRI: bases, reconstruction and maps.

Everything named here is loaded at first use; `import crbsvd_plugin` loads nothing heavy.
"""

import logging

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# a library stays silent unless its user wants to hear
logging.getLogger(__name__).addHandler(logging.NullHandler())
