"""Which quantization a collection gets, and how a quantized one is searched."""

from __future__ import annotations

from typing import Literal, TypeAlias

from qdrant_client import models

QuantizationName: TypeAlias = Literal["auto", "none", "binary", "scalar", "turbo", "product"]
Quantization: TypeAlias = QuantizationName | models.QuantizationConfig

# Up to here a scan of 4-bit codes beats a graph on the embedded engine: recall of at least 0.999
# at oversampling 2, in 3 ms for 100,000 vectors of 768 dimensions, and no graph to build.
SCAN_LIMIT = 100_000_000  # vector components: points times dimensions

# One bit a dimension keeps so little that more candidates must be rescored to find the best.
_OVERSAMPLING_BINARY = 3.0
_OVERSAMPLING = 2.0

_CONFIGS: dict[str, models.QuantizationConfig | None] = {
    "none": None,
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
    "scalar": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99)
    ),
    "turbo": models.TurboQuantization(
        turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4)
    ),
    "product": models.ProductQuantization(
        product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X16)
    ),
}


def quantization_config(
    quantization: Quantization, *, embedded: bool
) -> models.QuantizationConfig | None:
    """Qdrant's own model of a quantization; None for none.

    Args:
        quantization: A name, or one of Qdrant's models, which is returned as it is. "auto" is
            turbo 4-bit on the embedded engine and none on a server.
        embedded: Whether the collection is on the embedded engine.

    Raises:
        ValueError: The name is unknown.
    """
    if not isinstance(quantization, str):
        return quantization
    name = ("turbo" if embedded else "none") if quantization == "auto" else quantization
    if name not in _CONFIGS:
        known = ", ".join(["auto", *_CONFIGS])
        raise ValueError(f"expected a quantization of {known}, got {quantization!r}")
    return _CONFIGS[name]


def quantization_name(quantization: Quantization) -> str:
    """How the manifest calls it: the name, or "custom" for one of Qdrant's models."""
    return quantization if isinstance(quantization, str) else "custom"


def default_oversampling(config: models.QuantizationConfig) -> float:
    """How many times `limit` candidates are rescored with the original vectors."""
    binary = isinstance(config, models.BinaryQuantization)
    return _OVERSAMPLING_BINARY if binary else _OVERSAMPLING
