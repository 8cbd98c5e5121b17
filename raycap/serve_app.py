"""The deployment behind `raycap serve`: photos that come over HTTP, to captions. Knows Ray Serve, no command line."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from raycap.cluster import StageMetrics
from raycap.decoder_pool import DecoderPool
from raycap.errors import ImageEmptyError, ImageError, ImageTooLargeError
from raycap.images import DecodedImage
from raycap.serve_page import PAGE_HEADERS, page
from raycap.tool_config import ServeConfig
from raycap.uploads import photo_in_form

DEPLOYMENT: Final = "captioner"

_RETRY_AFTER_S = 1
_DECODES_AT_ONCE = 4  # each may take as much memory as --max-pixels allows
_CONSTRUCTOR_TRIES = 2  # a model that cannot be loaded cannot be loaded a third time
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class CaptionService:
    """Answers requests; one process, with one model.

    `POST /` takes a photo, as the body or as the file of a form, and answers with its caption; `GET /` is the page,
    `GET /healthz` says that the model is loaded. Ray Serve itself answers 503 where too many wait.
    """

    def __init__(self, config: ServeConfig) -> None:
        """Load the model, and caption a black photo, so that the first one to come does not wait for TensorFlow.

        Raises:
            RaycapError: see `Captioner.load` and `Captioner.caption`.
        """
        from raycap.captioner import Captioner

        self._config = config
        self._captioner = Captioner.load(
            config.model,
            encoder_file=config.encoder_file,
            limits=config.limits,
            num_threads=config.cpus_per_replica,
            batch_size=config.max_batch_size,
        )
        self._captioner.caption(np.zeros((1, 1, 3), np.uint8))
        self._speak.set_max_batch_size(config.max_batch_size)
        self._speak.set_batch_wait_timeout_s(config.batch_wait_s)
        self._decoders = DecoderPool(self._captioner.decoder, _DECODES_AT_ONCE)
        self._metrics = StageMetrics("serve")
        self._started, self._finished, self._under_way = time.monotonic(), 0, 0

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"
        methods = self._routes.get(path)
        if methods is None:
            return _error(404, "NotFound", f"there is nothing at {path}; POST a photo to /")
        answer = methods.get("GET" if request.method == "HEAD" else request.method)
        if answer is None:
            response = _error(405, "MethodNotAllowed", f"{request.method} is not for {path}")
            response.headers["Allow"] = ", ".join(methods)
            return response
        return await answer(request)

    @property
    def _routes(self) -> Mapping[str, Mapping[str, Callable[[Request], Awaitable[Response]]]]:
        return {"/": {"GET": self._page, "POST": self._caption}, "/healthz": {"GET": self._health}}

    async def _page(self, _: Request) -> Response:
        return Response(
            page(max_bytes=self._config.limits.max_bytes), media_type="text/html", headers=_HEADERS | PAGE_HEADERS
        )

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=_HEADERS)

    async def _caption(self, request: Request) -> Response:
        self._under_way += 1
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                image = await self._decoders.decode(await _photo(request, self._config.limits.max_bytes))
                found = await self._speak(image)
                if isinstance(found, ImageError):
                    raise found
        except TimeoutError:
            reason = f"not done in {self._config.request_timeout_s:g} s; --request-timeout-s allows more"
            return self._failed(504, "TimeoutError", reason)
        except _TooManyBytesError as error:
            response = self._failed(413, ImageTooLargeError.__name__, str(error))
            response.headers["Connection"] = "close"  # what is still to come is not read
            return response
        except ImageError as error:
            return self._failed(422, type(error).__name__, str(error))
        finally:
            self._under_way -= 1
        self._count(done=1)
        content = {"caption": found.caption, "log_prob": found.log_prob, "num_tokens": found.num_tokens}
        if self._config.decoding.num_captions > 1:
            content["alternatives"] = [each._asdict() for each in found.alternatives]
        return JSONResponse(content | {"width": image.width_px, "height": image.height_px}, headers=_HEADERS)

    @serve.batch  # type: ignore[untyped-decorator]
    async def _speak(self, images: Sequence[DecodedImage]) -> Sequence[Any]:
        """Caption photos of several requests in one model call; Ray Serve brings them together."""
        pixels, nameless = [each.pixels for each in images], [None] * len(images)
        speak = self._captioner.caption_pixels
        return await asyncio.to_thread(speak, pixels, self._config.decoding, image_ids=nameless)

    def _failed(self, status: int, kind: str, message: str) -> Response:
        self._count(failed=1)
        return _error(status, kind, message)

    def _count(self, *, done: int = 0, failed: int = 0) -> None:
        self._finished += 1
        rate = self._finished / (time.monotonic() - self._started)
        self._metrics.add(done=done, failed=failed, pending=self._under_way, rate=rate)


def application(config: ServeConfig) -> Any:
    """Return the Ray Serve application of a configuration."""
    resources = {"num_cpus": config.cpus_per_replica or 1, "num_gpus": config.num_gpus}
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=config.num_replicas,
        ray_actor_options=resources,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=_RETRY_AFTER_S),
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=config.request_timeout_s,
    )
    return deployment(CaptionService).bind(config)


class _TooManyBytesError(Exception):
    """A request is larger than it may be."""


async def _photo(request: Request, max_bytes: int) -> bytes:
    """Return the photo in a request; reads no more of it than is allowed.

    Raises:
        _TooManyBytesError: if the request is larger.
        ImageEmptyError: if there is no photo in it.
    """
    too_many = _TooManyBytesError(f"more than {max_bytes} bytes; --max-bytes allows more")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > max_bytes:
        raise too_many
    content = bytearray()
    async for chunk in request.stream():
        if len(content) + len(chunk) > max_bytes:
            raise too_many
        content += chunk
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/"):
        return bytes(content)
    photo = photo_in_form(bytes(content), kind)
    if photo is None:
        raise ImageEmptyError("there is no file in the form")
    return photo


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error_type": kind, "error_message": message}, status, headers=_HEADERS)
