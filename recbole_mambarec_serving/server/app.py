"""The application: routes, and which error is answered by which status."""

# no postponed annotations: FastAPI could not see the classes that are made within a function

import html
import json
import time
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from recbole_mambarec_command import __version__
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.ids import UnknownItem, UnknownUser
from recbole_mambarec_serving.server import schemas
from recbole_mambarec_serving.server.guard import Guard, fault
from recbole_mambarec_serving.server.metrics import CONTENT_TYPE, Metrics
from recbole_mambarec_serving.server.options import LONGEST_ID, Options
from recbole_mambarec_serving.server.reference import reference
from recbole_mambarec_serving.server.swap import Bundles
from recbole_mambarec_serving.server.workers import Busy, TooSlow, Workers

_PAGE = resources.files("recbole_mambarec_serving.server") / "page"
_FILES = {"page.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
#: the description of every answer that is no result
_FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Fault, "description": "The request cannot be read."},
    401: {"model": schemas.Fault, "description": "The server's token is missing or wrong."},
    404: {"model": schemas.Fault, "description": "The user or the item is unknown."},
    413: {"model": schemas.Fault, "description": "The body is too large."},
    422: {"model": schemas.Fault, "description": "A value is not one that is allowed."},
    500: {"model": schemas.Fault, "description": "An error of the server, with the id under which its log has it."},
    503: {"model": schemas.Fault, "description": "Too many requests at once, or the answer took too long."},
}
_NOT_JSON = "the body has to be JSON, with the header Content-Type: application/json"
_ABOUT = """Recommendations of one trained model, which an exported bundle holds.

Ids in a path are percent-encoded, and may hold slashes, blanks and any character of Unicode.
A server that was started with a token needs it in each request: `Authorization: Bearer TOKEN`."""


def create_app(bundles: Bundles, options: Options, poll: bool = True) -> FastAPI:
    """The ASGI application that serves whatever ``bundles`` holds.

    Args:
        poll: look for new bundles while the application runs.
    """
    metrics = Metrics()
    workers = Workers(options.threads, options.waiting, options.timeout)

    def told(outcome: str) -> None:
        metrics.swapped(outcome)
        say_what_is_served()

    def say_what_is_served() -> None:
        loaded = bundles.current
        metrics.serving(len(loaded.recommender.users), len(loaded.recommender.items), loaded.at)

    bundles.told = told
    say_what_is_served()

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        if poll:
            bundles.start()
        yield
        bundles.stop()
        workers.close()

    app = FastAPI(
        title="recbole-mambarec serve",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # an id may end with one
        lifespan=lifespan,
        responses={status: _FAULTS[status] for status in (401, 422, 500, 503)},
    )
    app.add_middleware(Guard, options=options, metrics=metrics)
    _answer_errors(app)
    _add_answers(app, bundles, workers, options)
    _add_state(app, bundles, metrics)
    _add_pages(app, options)
    return app


def _add_answers(app: FastAPI, bundles: Bundles, workers: Workers, options: Options) -> None:
    bodies = schemas.Bodies(options)
    default, few = min(20, options.max_k), min(10, options.max_k)
    UserId = Annotated[str, InPath(max_length=LONGEST_ID, description="The id of a user.")]
    ItemId = Annotated[str, InPath(max_length=LONGEST_ID, description="The id of an item.")]
    K = Annotated[int, Query(ge=1, le=options.max_k, description="How many items.")]
    Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
    Text = Annotated[str, Query(max_length=LONGEST_ID, description="Part of an id or a title.")]

    async def answer(compute: Callable[[Any], dict]) -> Response:
        # the bundle of the moment, to the end of this request
        recommender = bundles.current.recommender
        return Response(await workers.run(lambda: _json(compute(recommender))), media_type="application/json")

    @app.get("/recommend/{user:path}", response_model=schemas.ForUser, responses=_of(404), tags=["recommend"])
    async def recommend_to_a_user(
        user: UserId,
        k: K = default,
        exclude_seen: Annotated[bool, Query(description="Leave out what the user has already.")] = True,
    ):
        """The best items for a user."""
        return await answer(
            lambda recommender: {
                "user": user,
                "recommendations": _listed(recommender.recommend(user, k=k, exclude_seen=exclude_seen)),
            }
        )

    @app.post("/recommend", response_model=schemas.ForUsers, responses=_of(400, 404, 413), tags=["recommend"])
    async def recommend_to_several_users(body: bodies.Users):  # type: ignore[name-defined]
        """The best items for each of several users; those whom the model does not know are listed."""
        deadline = time.monotonic() + options.timeout

        def compute(recommender: Any) -> dict:
            known = [user for user in body.users if user in recommender.users]
            lists = recommender.recommend(known, k=body.k, exclude_seen=body.exclude_seen, among=body.among)
            results = []
            for user, found in lists:
                if time.monotonic() > deadline:
                    raise TooSlow  # nobody waits any longer
                results.append({"user": user, "recommendations": _listed(found)})
            return {
                "results": results,
                "unknown": [user for user in body.users if user not in recommender.users],
            }

        return await answer(compute)

    @app.get("/similar/{item:path}", response_model=schemas.SimilarItems, responses=_of(404), tags=["recommend"])
    async def similar_to_an_item(
        item: ItemId,
        k: K = few,
        by: Annotated[str, Query(max_length=100, description="model, or a modality such as image.")] = "model",
    ):
        """The items that are most similar to an item: to the model, or in one of their modalities."""
        return await answer(
            lambda recommender: {
                "item": item,
                "by": by,
                "similar": _listed(recommender.similar_items(item, k=k, by=by)),
            }
        )

    @app.post("/recommend-for", response_model=schemas.ForItems, responses=_of(400, 404, 413), tags=["recommend"])
    async def recommend_to_somebody_new(body: bodies.Basket):  # type: ignore[name-defined]
        """The best items for somebody whom the model does not know, by the items that they have."""
        return await answer(
            lambda recommender: {
                "items": body.items,
                "recommendations": _listed(
                    recommender.recommend_for(body.items, k=body.k, exclude_seen=body.exclude_seen)
                ),
            }
        )

    @app.get("/search/items", response_model=schemas.Items, tags=["catalogue"])
    async def search_items(q: Text, limit: Limit = 20):
        """Items whose id or title has a text in it."""
        return await answer(lambda recommender: {"items": [*map(_item, recommender.search_items(q, limit=limit))]})

    @app.get("/search/users", response_model=schemas.Users, tags=["catalogue"])
    async def search_users(q: Text, limit: Limit = 20):
        """Users whose id has a text in it."""
        return await answer(lambda recommender: {"users": [*map(str, recommender.search_users(q, limit=limit))]})

    @app.get("/items/{item:path}", response_model=schemas.Item, responses=_of(404), tags=["catalogue"])
    async def describe_an_item(item: ItemId):
        """What the bundle says of an item."""
        return await answer(lambda recommender: _item(recommender.item(item)))

    @app.post("/items", response_model=schemas.Items, responses=_of(400, 404, 413), tags=["catalogue"])
    async def describe_items(body: bodies.Items):  # type: ignore[name-defined]
        """What the bundle says of several items."""
        return await answer(lambda recommender: {"items": [_item(recommender.item(item)) for item in body.items]})


def _add_state(app: FastAPI, bundles: Bundles, metrics: Metrics) -> None:
    @app.get("/health", response_model=schemas.Health, tags=["server"])
    async def health(request: Request):
        """Whether the server answers, and with which bundle."""
        loaded, wrong = bundles.current, bundles.fault
        known: dict = {"status": "ok" if wrong is None else "stale"}
        if request.state.trusted:
            known["bundle"] = {
                "name": loaded.recommender.name,
                "users": len(loaded.recommender.users),
                "items": len(loaded.recommender.items),
                "modalities": [*(loaded.recommender.features.widths if loaded.recommender.features else ())],
                "loaded": datetime.fromtimestamp(loaded.at, timezone.utc).isoformat(timespec="seconds"),
            }
            known["fault"] = wrong
        return Response(_json(known), media_type="application/json")

    @app.get("/metrics", response_class=_Text, tags=["server"])
    async def prometheus_metrics():
        """Counts and times of requests, and what is served, as Prometheus reads them."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


class _Text(Response):
    media_type = "text/plain"


def _add_pages(app: FastAPI, options: Options) -> None:
    images = " ".join(options.image_hosts)
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' {images}".strip()
        + "; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    headers = {"content-security-policy": policy, "cache-control": "no-cache"}
    index = (_PAGE / "index.html").read_text(encoding="utf-8")
    index = index.replace("IMAGE_HOSTS", html.escape(images)).replace("LONGEST_LIST", str(options.max_k))
    described = reference(app.openapi())

    def file(path: str, content: str | bytes, kind: str) -> None:
        async def send() -> Response:
            return Response(content, media_type=kind, headers=headers)

        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)

    file("/", index, "text/html")
    file("/docs", described, "text/html")
    for name, kind in _FILES.items():
        file(f"/{name}", (_PAGE / name).read_bytes(), kind)


def _answer_errors(app: FastAPI) -> None:
    def answers(kind: type[Exception], status: int, sentence: Callable[[Any], str], **headers: str) -> None:
        async def handle(request: Request, error: Any) -> Response:
            return Response(fault(sentence(error)), status, headers or None, "application/json")

        app.add_exception_handler(kind, handle)

    answers(UnknownUser, 404, str)
    answers(UnknownItem, 404, str)
    answers(UserError, 422, str)
    answers(Busy, 503, lambda error: "too many requests wait already: try again in a second", **{"retry-after": "1"})
    answers(TooSlow, 503, lambda error: "the answer has taken too long: ask for less, or try again later")

    async def of_values(request: Request, error: Any) -> Response:
        kind = request.headers.get("content-type", "")
        if error.errors()[0]["loc"] == ("body",) and "json" not in kind:
            return Response(fault(_NOT_JSON), 422, media_type="application/json")
        return Response(fault(_sentence(error)), 422, media_type="application/json")

    async def of_http(request: Request, error: Any) -> Response:
        sentence = {
            400: "the body cannot be read: it has to be JSON in UTF-8",
            404: "there is nothing under this address: GET /docs lists what there is",
            405: f"{request.method} is not possible here: GET /docs lists what is",
        }.get(error.status_code, str(error.detail))
        return Response(fault(sentence), error.status_code, error.headers, "application/json")

    app.add_exception_handler(RequestValidationError, of_values)
    app.add_exception_handler(HTTPException, of_http)


def _sentence(error: RequestValidationError) -> str:
    """The first of the mistakes in a request."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first.get('ctx', {}).get('error', 'it ends too early')}"
    place = ".".join(map(str, first["loc"][1:])) or "the body"
    message = first["msg"]
    return f"{place}: {message[0].lower()}{message[1:]}"


def _of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _FAULTS[status] for status in statuses}


def _listed(recommendations: Iterable) -> list[dict]:
    return [{"item": each.item, "score": float(each.score), "title": each.title} for each in recommendations]


def _item(info: Any) -> dict:
    return {
        "id": info.id,
        "title": info.title,
        "image": info.image,
        "popularity": int(info.popularity),
        "modalities": [*info.modalities],
    }


def _json(answer: dict) -> bytes:
    # JSON has no infinity; one would be a defect of the scorer, and is not passed on as something else
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
