"""
FHIRPath, as far as the published search parameters and compartments use it.

`parser` reads an expression into paths of steps, `compiler` turns a path into a function that
collects the path's values from decoded JSON, and `collectors` has the functions for single steps.
"""

from helios_core.fhir.fhirpath.compiler import CompiledPath, compile_path
from helios_core.fhir.fhirpath.parser import Path, parse_expression

__all__ = ["CompiledPath", "Path", "compile_path", "parse_expression"]
