"""What a request to the trustless gateway asks for: one block or a CAR, by URL or by Accept header."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
_HELP = f"ask for ?format=raw ({RAW_TYPE}) or ?format=car ({CAR_TYPE})"


@dataclass(frozen=True, slots=True)
class Raw:
    """One block."""


@dataclass(frozen=True, slots=True)
class Car:
    """A CAR, with the parameters that change its bytes."""

    scope: str
    """`block` the root alone; `all` and `entity` the whole file, the only entity there is here."""
    repeats: bool
    """Send a block as often as the file repeats it."""


def wanted(request: web.Request) -> Raw | Car:
    """What the URL or, without `format`, the Accept header asks for. Raises 400, 406 or 501."""
    kind = request.query.get("format")
    parameters: dict[str, str] = {}
    if kind is None:
        kind, parameters = _accepted(request.headers.get("Accept", ""))
    if kind not in ("raw", "car"):
        raise plain(web.HTTPNotAcceptable, f"format {kind!r} is not served; {_HELP}")
    if kind == "raw":
        return Raw()
    if "entity-bytes" in request.query:
        raise plain(web.HTTPNotImplemented, "entity-bytes is not served; take the whole file or single blocks")
    version = request.query.get("car-version", parameters.get("version", "1"))
    order = request.query.get("car-order", parameters.get("order", "dfs"))
    repeats = request.query.get("car-dups", parameters.get("dups", "n"))
    scope = request.query.get("dag-scope", "all")
    if scope not in ("all", "entity", "block"):
        raise plain(web.HTTPBadRequest, f"dag-scope {scope!r}: one of all, entity, block")
    if version != "1" or order not in ("dfs", "unk") or repeats not in ("y", "n"):
        raise plain(
            web.HTTPNotAcceptable,
            f"a CAR here has version 1, order dfs, dups y or n; asked: {version}, {order}, {repeats}",
        )
    return Car(scope, repeats == "y")


def _accepted(accept: str) -> tuple[str, dict[str, str]]:
    """The first servable type of an Accept header, by its weights, with its parameters."""
    kinds = {RAW_TYPE: "raw", CAR_TYPE: "car"}
    best: tuple[float, str, dict[str, str]] | None = None
    for item in accept.split(",")[:32]:
        media, *rest = (piece.strip() for piece in item.split(";"))
        parameters = {
            key.strip(): value.strip().strip('"') for key, _, value in (piece.partition("=") for piece in rest)
        }
        try:
            weight = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if media in kinds and weight > 0 and (best is None or weight > best[0]):
            best = (weight, kinds[media], parameters)
    if best is None:
        raise plain(web.HTTPNotAcceptable, f"this gateway serves blocks, not rendered files; {_HELP}")
    return best[1], best[2]


def plain(kind: type[web.HTTPException], text: str) -> web.HTTPException:
    return kind(text=text + "\n", headers={"Cache-Control": "no-store"})
