"""Settings that a server takes and the engine does not: remembered and reported.

On one node most of them change nothing; `max_optimization_threads=0` holds the optimizer back.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from qdrant_client import models

from qdrant_standin.refusals import Refusal

# What a server says of a collection that was made without a word about these.
_PARAMS = {"shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1}
_WAL = models.WalConfig(wal_capacity_mb=32, wal_segments_ahead=0, wal_retain_closed=1)
_STRICT_MODE = models.StrictModeConfigOutput(enabled=False)
_OPTIMIZERS = {"flush_interval_sec": 5, "max_optimization_threads": None}

_OF_COLLECTION = (
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "read_fan_out_factor",
    "read_fan_out_delay_ms",
)
_OF_OPTIMIZERS = ("memmap_threshold", "flush_interval_sec", "max_optimization_threads")


class ServerSettings:
    """Those of one collection."""

    def __init__(self, settings: models.CreateCollection) -> None:
        self._params = {**_PARAMS, **_picked(settings, _OF_COLLECTION)}
        self._wal = _over(_WAL, settings.wal_config)
        self._strict_mode = _over(_STRICT_MODE, settings.strict_mode_config)
        self._optimizers: dict[str, Any] = dict(_OPTIMIZERS)
        self._optimizers.update(_picked(settings.optimizers_config, _OF_OPTIMIZERS))
        self._unquantized = False

    @property
    def shard_number(self) -> int:
        """How many shards were asked for."""
        number: int = self._params["shard_number"]
        return number

    @property
    def held_back(self) -> bool:
        """Whether nothing is to be optimized."""
        threads: int | None = self._optimizers["max_optimization_threads"]
        return threads == 0

    def change(self, change: models.UpdateCollection) -> None:
        """Take up what `update_collection` asks for."""
        self._params.update(_picked(change.params, _OF_COLLECTION))
        self._strict_mode = _over(self._strict_mode, change.strict_mode_config)
        self._optimizers.update(_picked(change.optimizers_config, _OF_OPTIMIZERS))
        if self._optimizers["max_optimization_threads"] == _AUTO:
            self._optimizers["max_optimization_threads"] = None
        if change.quantization_config is not None:
            self._unquantized = change.quantization_config == models.Disabled.DISABLED

    def over(self, info: models.CollectionInfo) -> models.CollectionInfo:
        """What the engine says of the collection, with these settings."""
        config = info.config
        updates = {
            "params": config.params.model_copy(update=self._params),
            "optimizer_config": config.optimizer_config.model_copy(update=self._optimizers),
            "wal_config": self._wal,
            "strict_mode_config": self._strict_mode,
        }
        if self._unquantized:
            updates["quantization_config"] = None
        queue = models.UpdateQueueInfo(length=0)
        return info.model_copy(
            update={"config": config.model_copy(update=updates), "update_queue": queue}
        )


_AUTO = models.MaxOptimizationThreadsSetting.AUTO


def for_engine(change: models.UpdateCollection) -> models.UpdateCollection:
    """The part of a change that the engine can make.

    It cannot take quantization away, so it goes on with it and the report says otherwise.
    """
    updates: dict[str, Any] = {
        "params": _without(change.params, _OF_COLLECTION),
        "optimizers_config": _without(change.optimizers_config, _OF_OPTIMIZERS),
        "strict_mode_config": None,
    }
    if change.quantization_config == models.Disabled.DISABLED:
        updates["quantization_config"] = None
    return change.model_copy(update=updates)


def optimizers_for_engine(settings: models.CreateCollection) -> models.OptimizersConfigDiff | None:
    """The same for the optimizer of a new collection."""
    kept: models.OptimizersConfigDiff | None = _without(settings.optimizers_config, _OF_OPTIMIZERS)
    return kept


def check_new(settings: models.CreateCollection) -> None:
    """Refuse what the server's own validation refuses and the engine would take.

    Raises:
        Refusal: A number of shards or replicas below one, vectors or payload pinned in memory
            (422); a kind of quantization that is newer than the server (400).
    """
    for name in ("shard_number", "replication_factor", "write_consistency_factor"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise _invalid(f"{name}: value {value} invalid, must be 1 or larger")
    if settings.payload is not None:
        _check_memory(settings.payload.memory, "payload storage")
    vectors = settings.vectors or {}
    for params in vectors.values() if isinstance(vectors, dict) else [vectors]:
        _check_memory(params.memory, "dense vector storage")
        check_quantization(params.quantization_config)
    check_quantization(settings.quantization_config)


def check_change(change: models.UpdateCollection) -> None:
    """The same for a change.

    Raises:
        Refusal: As in `check_new`.
    """
    for diff in (change.vectors or {}).values():
        _check_memory(diff.memory, "dense vector storage")
        check_quantization(diff.quantization_config)
    check_quantization(change.quantization_config)


def _check_memory(memory: models.Memory | None, of: str) -> None:
    if memory == models.Memory.PINNED:
        raise _invalid(f"memory: `pinned` memory placement is not supported for {of}")


def _invalid(what: str) -> Refusal:
    return Refusal(status=422, message=f"Validation error in JSON body: [{what}]")


def check_quantization(config: Any) -> None:
    """Refuse turbo quantization to 8 bits, which server 1.19 has not learnt yet.

    Raises:
        Refusal: It is that (400).
    """
    turbo = config.turbo if isinstance(config, models.TurboQuantization) else None
    if turbo is not None and turbo.bits == models.TurboQuantBitSize.BITS8:
        what = "data did not match any variant of untagged enum QuantizationConfig"
        raise Refusal(status=400, message=f"Format error in JSON body: {what}")


def _picked(model: BaseModel | None, names: tuple[str, ...]) -> dict[str, Any]:
    """Those members of a model that are given."""
    values = {name: getattr(model, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _without(model: Any, names: tuple[str, ...]) -> Any:
    if model is None:
        return None
    return model.model_copy(update={name: None for name in names if hasattr(model, name)})


def _over(defaults: Any, given: BaseModel | None) -> Any:
    """The defaults with what is given in their place."""
    if given is None:
        return defaults
    return defaults.model_copy(update={name: value for name, value in given if value is not None})
