"""
FHIR Bulk Data Export: the plugin API.

Plugins import from here, from `helios_core.fhir` and, in their tests, from `helios_core.testing`;
every other module may change at any time. `__init__.pyi` lists the names. Each is imported on its
first access, so that a process loads only what it uses.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
