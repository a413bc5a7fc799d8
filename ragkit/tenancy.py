"""Whose points they are: in a collection shared by tenants, everyone reads and writes his own."""

from __future__ import annotations

from qdrant_client import models

TENANT = "tenant"  # the payload key


def scoped(where: models.Filter | None, tenant: str | None) -> models.Filter | None:
    """A filter narrowed to a tenant's points; the filter itself when there is no tenant.

    The filter stands whole inside the new one, so none of its own clauses can widen it again.
    """
    if tenant is None:
        return where
    own = models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))
    if where is not None and isinstance(where.must, list) and own in where.must:
        return where  # it is narrowed already: whatever else it says, this must hold
    return models.Filter(must=[own] if where is None else [own, where])


def scoped_request(request: models.QueryRequest, tenant: str | None) -> models.QueryRequest:
    """A search among a tenant's points alone, with every search that feeds it."""
    if tenant is None:
        return request
    narrowed = {"filter": scoped(request.filter, tenant), "prefetch": _scoped(request, tenant)}
    return request.model_copy(update=narrowed)


def _scoped(
    request: models.QueryRequest | models.Prefetch, tenant: str
) -> list[models.Prefetch] | None:
    inner = request.prefetch
    if inner is None:
        return None
    return [
        each.model_copy(
            update={"filter": scoped(each.filter, tenant), "prefetch": _scoped(each, tenant)}
        )
        for each in ([inner] if isinstance(inner, models.Prefetch) else inner)
    ]


def check_tenant(tenant: str | None) -> None:
    """Refuse what cannot name a tenant.

    Raises:
        ValueError: It is not a string, or a blank one.
    """
    if tenant is not None and (not isinstance(tenant, str) or not tenant.strip()):
        raise ValueError(f"expected tenant to be a name, got {tenant!r}")
