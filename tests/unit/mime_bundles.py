"""MIME bundles as they come from a kernel, each value the JSON that it was written as."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec


def bundle_of(values: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    """As Python writes JSON: NaN and lone surrogates, which not every reader takes, included."""
    return {mime: msgspec.Raw(json.dumps(value).encode()) for mime, value in values.items()}
