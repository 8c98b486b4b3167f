"""The routes: pictures in, predictions out, and what a page and a monitor want to know."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from eyebright.console import shown
from eyebright.errors import DataError, EyebrightError, UsageError
from eyebright.serve.batching import FullError
from eyebright.serve.guard import GONE, MOST_PICTURES, RefusedError, too_busy
from eyebright.serve.net import Row
from eyebright.serve.net import explain as explain_picture
from eyebright.serve.serving import Serving
from eyebright.serve.shapes import ANY_PICTURE, BODIES, ONE_BODY, PROBLEMS, Answers, Problem

KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
MOST_EXPLAINING = 4  # pictures of which a heat map is wanted; they are made one by one
MOST_AT_ONCE = 20_000  # probabilities that are put into words between two other requests


class InMemory(MultiPartParser):
    """Files of a form stay in memory: no picture is ever written to a disk."""

    spool_max_size = 1 << 40


class Predict(APIRoute):
    """A route that reads its one query word itself: FastAPI's way takes as long as all the rest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""

        async def answer(request: Request) -> Response:
            top = request.query_params.get("top")
            if top is not None and not re.fullmatch("0*[1-9][0-9]{0,8}", top):
                raise RefusedError(422, "top: a whole number from 1 on")
            response: Response = await self.endpoint(request, None if top is None else int(top))
            return response

        return answer


def create_app(serving: Serving) -> FastAPI:
    """The routes, of a model that is loaded."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(serving.batcher.work())
        yield
        task.cancel()
        serving.batcher.close()
        serving.net.close()

    app = FastAPI(
        title=f"eyebright: {serving.about['name']}",
        summary="Pictures in, calibrated probabilities out.",
        version=str(serving.about["version"]),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    app.router.route_class = Predict

    @app.post(
        "/predict",
        summary="What is on one picture (the body) or several (a form)",
        responses={200: {"model": Answers}, **PROBLEMS},
        openapi_extra=BODIES,
    )
    async def predict(
        request: Request, top: int | None = Query(None, ge=1, description="So many classes.")
    ) -> Response:
        names, contents = await read_pictures(request)
        rows = await unless_gone(request, serving, contents)
        serving.numbers.count_pictures(sum(isinstance(row, DataError) for row in rows), len(rows))
        if names == [None] and isinstance(rows[0], DataError):
            raise rows[0]
        if len(rows) * min(top or MOST_AT_ONCE, len(serving.classes)) < MOST_AT_ONCE:
            said = serving.say(names, rows, top)
        else:  # so much that others would have to wait
            said = await asyncio.to_thread(serving.say, names, rows, top)
        return Response(said, media_type="application/json")

    app.router.route_class = APIRoute

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": error.message}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misused(_: Request, error: RequestValidationError) -> JSONResponse:
        words = (f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return JSONResponse({"error": "; ".join(words)}, 422)

    @app.exception_handler(EyebrightError)
    async def broken(_: Request, error: EyebrightError) -> JSONResponse:
        cannot_be = isinstance(error, UsageError)  # such as explaining some nets
        status = 422 if isinstance(error, DataError) else 501 if cannot_be else 503
        return JSONResponse({"error": shown(error)}, status)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return static("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part_of_page(name: str) -> Response:
        return static(name)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return Response(api_page(app.openapi(), str(request.base_url)), media_type="text/html")

    @app.get("/model", summary="The model: classes, measured accuracy, what it is weak at")
    async def model() -> JSONResponse:
        return JSONResponse(serving.about)

    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Whether it takes pictures", responses={503: {"model": Problem}})
    async def readyz() -> JSONResponse:
        if not serving.is_ready:
            raise RefusedError(503, "leaving" if serving.leaving else "the net is being loaded")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(serving.numbers.text(), media_type=serving.numbers.kind)

    one_by_one, explaining = asyncio.Lock(), asyncio.Semaphore(MOST_EXPLAINING)

    @app.post(
        "/explain",
        summary="Which pixels mattered: a PNG to lay over the picture's centre square",
        responses={200: {"content": {"image/png": ANY_PICTURE}}, **PROBLEMS},
        response_class=Response,
        openapi_extra=ONE_BODY,
    )
    async def explain(
        request: Request,
        label: str | None = Query(None, description="Of this class; default: the likeliest."),
    ) -> Response:
        if not serving.about["explain"]:
            raise RefusedError(501, "heat maps need the extra explain")
        if label is not None and label not in serving.classes:
            raise RefusedError(422, "the model knows no such class")
        _, (content,) = await read_pictures(request, most=1)
        if explaining.locked():
            raise too_busy(1)
        try:
            async with explaining, asyncio.timeout(serving.timeout):
                picture = await serving.batcher.decode(content)
                if isinstance(picture, DataError):
                    raise picture
                async with one_by_one:
                    if await request.is_disconnected():
                        raise RefusedError(GONE, "nobody waits for it")
                    png = await serving.net.run(explain_picture, picture, label)
        except TimeoutError:
            raise RefusedError(503, "no heat map in time", retry_after="1") from None
        return Response(png, media_type="image/png")

    return app


def api_page(api: dict[str, Any], base: str) -> str:
    """The routes for people to read; nothing in it runs or comes from elsewhere."""
    from jinja2 import Environment

    text = (files("eyebright.serve") / "api.html").read_text(encoding="utf-8")
    schemas = {n: s for n, s in api["components"]["schemas"].items() if "description" in s}
    return Environment(autoescape=True).from_string(text).render(api, schemas=schemas, base=base)


def static(name: str) -> Response:
    """A file of the page."""
    file = files("eyebright.serve") / "page" / name
    kind = KINDS.get("." + name.rpartition(".")[2])
    if kind is None or "/" in name or "\\" in name or not file.is_file():
        raise HTTPException(404, "Not Found")
    return Response(file.read_bytes(), media_type=kind)


async def read_pictures(
    request: Request, most: int = MOST_PICTURES
) -> tuple[list[str | None], list[bytes]]:
    """Names (None: it has none) and contents of the pictures of a request.

    Raises:
        RefusedError: no picture, too many, or a form that is none.
    """
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith("multipart/form-data"):
        content = await request.body()
        if not content:
            raise RefusedError(422, "no picture in the request")
        return [None], [content]
    try:
        parser = InMemory(request.headers, request.stream(), max_files=most, max_fields=most)
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"no form that can be read ({error.message})") from None
    names: list[str | None] = []
    contents = []
    for _, part in form.multi_items():
        if not isinstance(part, str):
            names.append(part.filename or "")
            contents.append(await part.read())
    if not contents:
        raise RefusedError(422, "no picture in the form")
    return names, contents


async def unless_gone(request: Request, serving: Serving, contents: list[bytes]) -> list[Row]:
    """The answers, as long as somebody waits for them.

    Raises:
        RefusedError: too many wait already, or it takes too long.
    """
    most = serving.batcher.load.at_once(serving.timeout / 2)
    if len(contents) > most:
        raise RefusedError(413, f"too many for one request; at most {most} are done in time")
    try:
        answers = asyncio.gather(*serving.batcher.submit(contents))
    except FullError as full:
        raise too_busy(full.seconds) from None
    answers.add_done_callback(looked_at)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait((answers, gone), timeout=serving.timeout, return_when="FIRST_COMPLETED")
        if answers.done():
            return list(answers.result())
        status = GONE if gone.done() else 503
        raise RefusedError(status, "no answer in time", retry_after="1")
    finally:
        answers.cancel()  # whatever still waits is dropped
        gone.cancel()


def looked_at(answers: asyncio.Future[Any]) -> None:
    """Spare the log an exception that nobody waits for any more."""
    if not answers.cancelled():
        answers.exception()


async def until_gone(request: Request) -> None:
    """Wait until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
