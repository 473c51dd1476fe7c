"""What can keep the bench from measuring.

BenchError
├── InvalidSettings      the environment does not say which platform to measure
├── PlatformUnreachable  nobody answers at the platform's address
├── PlatformRefused      the platform answered, but not with what was asked for
└── BaselineFailed       what the platform is compared with did not do its part
"""

from __future__ import annotations


class BenchError(Exception):
    """Base of all that ends a bench early; the message is for a person."""


class InvalidSettings(BenchError):
    """The environment does not say which platform to measure."""


class PlatformUnreachable(BenchError):
    """Nobody answers at the platform's address."""


class PlatformRefused(BenchError):
    """The platform answered, but not with what was asked for."""


class BaselineFailed(BenchError):
    """What the platform is compared with did not do its part."""
