"""
What FHIR says: versions, resources, references, instants, search.

The public names stand in `__init__.pyi`; see `helios_core` for what that means.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
