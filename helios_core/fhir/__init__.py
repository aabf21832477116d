"""
What FHIR specifies: versions, resources, references, instants, search.

`__init__.pyi` lists the public names, which plugins may import; see `helios_core`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
