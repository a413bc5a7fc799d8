"""Which quantization a collection gets, and how a quantized one is searched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, cast

from qdrant_client import models

T = TypeVar("T")

QueryEncoding: TypeAlias = Literal["binary", "scalar4bits", "scalar8bits"]

# Up to here a scan of 4-bit codes beats a graph on the embedded engine: recall of at least 0.999
# at oversampling 2, in 3 ms for 100,000 vectors of 768 dimensions, and no graph to build.
SCAN_LIMIT = 100_000_000  # vector components: points times dimensions

# One bit a dimension keeps so little that more candidates must be rescored to find the best.
_OVERSAMPLING_BINARY = 3.0
_OVERSAMPLING = 2.0

_BINARY_BITS = {
    1.0: models.BinaryQuantizationEncoding.ONE_BIT,
    1.5: models.BinaryQuantizationEncoding.ONE_AND_HALF_BITS,
    2.0: models.BinaryQuantizationEncoding.TWO_BITS,
}
_TURBO_BITS = {
    1.0: models.TurboQuantBitSize.BITS1,
    1.5: models.TurboQuantBitSize.BITS1_5,
    2.0: models.TurboQuantBitSize.BITS2,
    4.0: models.TurboQuantBitSize.BITS4,
}
_COMPRESSIONS: dict[float, models.CompressionRatio] = {
    ratio: models.CompressionRatio(f"x{ratio}") for ratio in (4, 8, 16, 32, 64)
}
_QUERIES = ("binary", "scalar4bits", "scalar8bits")
_SPEC = re.compile(
    r"(?P<kind>binary|turbo|product)(-(?P<bits>[\d.]+)bit)?(-x(?P<ratio>\d+))?"
    r"(-query-(?P<query>\w+))?"
)
_NAMES = "auto, none, binary, scalar, turbo or product"


@dataclass(frozen=True, slots=True)
class Quantization:
    """How vectors are compressed beside their originals; made by the named constructors.

    Attributes:
        name: In one word, as the manifest and the command line have it: "binary-2bit".
        config: Qdrant's own model of it; None for none, and for "auto".
    """

    name: str
    config: models.QuantizationConfig | None

    @classmethod
    def auto(cls) -> Quantization:
        """Turbo with 4 bits on the embedded engine, none on a server."""
        return cls("auto", None)

    @classmethod
    def none(cls) -> Quantization:
        """The original vectors alone."""
        return cls("none", None)

    @classmethod
    def binary(cls, bits: float = 1, *, query: QueryEncoding | None = None) -> Quantization:
        """The signs of a vector's components: 1/32 of the memory with one bit each.

        Args:
            bits: 1, 1.5 or 2 for each dimension.
            query: Encode queries more finely than documents: "scalar4bits" or "scalar8bits";
                "binary" unless given.

        Raises:
            ValueError: There is no such encoding.
        """
        encoding = _chosen("bits of binary quantization", bits, _BINARY_BITS)
        if query is not None and query not in _QUERIES:
            raise ValueError(f"expected a query encoding of {', '.join(_QUERIES)}, got {query!r}")
        config = models.BinaryQuantizationConfig(
            encoding=None if bits == 1 else encoding,
            query_encoding=query and models.BinaryQuantizationQueryEncoding(query),
        )
        name = "binary" + _bits(bits, usual=1) + (f"-query-{query}" if query else "")
        return cls(name, models.BinaryQuantization(binary=config))

    @classmethod
    def scalar(cls) -> Quantization:
        """One byte for each component: a quarter of the memory.

        The range covers 99% of the values, for a few outliers would coarsen all others.
        """
        config = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99)
        return cls("scalar", models.ScalarQuantization(scalar=config))

    @classmethod
    def turbo(cls, bits: float = 4) -> Quantization:
        """Rotated, then coded with few bits for each component (Zandieh et al. 2025, TurboQuant).

        Args:
            bits: 4, 2, 1.5 or 1: 1/8 to 1/32 of the memory.

        Raises:
            ValueError: Another number of bits.
        """
        size = _chosen("bits of turbo quantization", bits, _TURBO_BITS)
        config = models.TurboQuantQuantizationConfig(bits=size)
        return cls("turbo" + _bits(bits, usual=4), models.TurboQuantization(turbo=config))

    @classmethod
    def product(cls, compression: int = 16) -> Quantization:
        """Product quantization: the slowest to build and to search, seldom the best.

        Args:
            compression: 4, 8, 16, 32 or 64.

        Raises:
            ValueError: Another ratio.
        """
        ratio = _chosen("a compression", compression, _COMPRESSIONS)
        config = models.ProductQuantizationConfig(compression=ratio)
        name = "product" + ("" if compression == 16 else f"-x{compression}")
        return cls(name, models.ProductQuantization(product=config))

    @classmethod
    def of(cls, given: Quantization | str | models.QuantizationConfig) -> Quantization:
        """Read what a caller gave: one of these, its name, or one of Qdrant's own models.

        Raises:
            ValueError: The name is unknown.
        """
        if isinstance(given, Quantization):
            return given
        if not isinstance(given, str):
            return cls("custom", given)
        plain = {"auto": cls.auto, "none": cls.none, "scalar": cls.scalar}
        return plain[given]() if given in plain else cls._parsed(given)

    @classmethod
    def _parsed(cls, name: str) -> Quantization:
        found = _SPEC.fullmatch(name)
        if found is None:
            raise ValueError(
                f"expected a quantization of {_NAMES}, or such as binary-2bit, "
                f"binary-query-scalar8bits, turbo-1.5bit, product-x32, got {name!r}"
            )
        bits, ratio, query = found["bits"], found["ratio"], found["query"]
        if found["kind"] == "product" and not bits and not query:
            return cls.product(int(ratio or 16))
        if found["kind"] == "turbo" and not ratio and not query:
            return cls.turbo(float(bits or 4))
        if found["kind"] == "binary" and not ratio:
            return cls.binary(float(bits or 1), query=cast("QueryEncoding | None", query))
        raise ValueError(f"expected a quantization of {_NAMES}, got {name!r}")

    def settled(self, *, embedded: bool) -> Quantization:
        """What "auto" stands for at a store; any other is itself."""
        if self.name != "auto":
            return self
        return Quantization.turbo() if embedded else Quantization.none()

    def __str__(self) -> str:
        return self.name


AnyQuantization: TypeAlias = Quantization | str | models.QuantizationConfig


def pinned(config: models.QuantizationConfig) -> models.QuantizationConfig:
    """The same quantization with its vectors held in RAM, unless it says where itself.

    Servers before 1.19 know the flag, later ones the tier.
    """
    (field,) = type(config).model_fields
    inner = getattr(config, field)
    if inner.memory is not None or inner.always_ram is not None:
        return config
    placement = {"always_ram": True, "memory": models.Memory.PINNED}
    return config.model_copy(update={field: inner.model_copy(update=placement)})


def outgrew_scan(config: models.CollectionConfig, components: int) -> bool:
    """Whether a collection whose codes are scanned has become too large for that.

    Args:
        config: The collection's.
        components: Points times dimensions.
    """
    scanned = config.quantization_config is not None and config.hnsw_config.m == 0
    return scanned and components > SCAN_LIMIT


def default_oversampling(config: models.QuantizationConfig) -> float:
    """How many times `limit` candidates are rescored with the original vectors."""
    binary = isinstance(config, models.BinaryQuantization)
    return _OVERSAMPLING_BINARY if binary else _OVERSAMPLING


def _chosen(what: str, given: float, known: Mapping[float, T]) -> T:
    if given not in known:
        listed = ", ".join(f"{each:g}" for each in known)
        raise ValueError(f"expected {what} to be one of {listed}, got {given!r}")
    return known[given]


def _bits(bits: float, *, usual: float) -> str:
    return "" if bits == usual else f"-{bits:g}bit"
