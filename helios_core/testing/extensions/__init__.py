"""The contract suites of extensions: one for each hook that is not that of a backend."""

from helios_core.testing.extensions.commands import CommandSuite
from helios_core.testing.extensions.file_authorizers import FileAuthorizerSuite
from helios_core.testing.extensions.health_checks import HealthCheckSuite
from helios_core.testing.extensions.observers import ObserverSuite
from helios_core.testing.extensions.routes import RouteSuite
from helios_core.testing.extensions.token_verifiers import TokenVerifierSuite
from helios_core.testing.extensions.transforms import TransformSuite

__all__ = [
    "CommandSuite",
    "FileAuthorizerSuite",
    "HealthCheckSuite",
    "ObserverSuite",
    "RouteSuite",
    "TokenVerifierSuite",
    "TransformSuite",
]
