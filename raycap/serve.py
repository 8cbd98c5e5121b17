"""`raycap serve`: a bundle behind HTTP, here or on a cluster, until it is told to stop. Knows no HTTP itself."""

import importlib.util
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from raycap import errors
from raycap.cluster import Capacity, connect, is_own
from raycap.errors import ConflictError, InputError, RaycapError
from raycap.locations import with_absolute
from raycap.model_card import find_bundle, read_card
from raycap.options import build
from raycap.presets import PRESETS, preset_of
from raycap.progress import say
from raycap.tool_config import ServeConfig

APPLICATION: Final = "raycap"

_LOOK_EVERY_S = 2.0
_OUR_ERROR = re.compile(r"raycap\.errors\.(\w+): (.*)")


@dataclass(frozen=True, kw_only=True)
class ServeResult:
    """What came of it.

    Attributes:
        url: where it was.
        served_s: seconds that it was there.
    """

    url: str
    served_s: float


def serve(config: ServeConfig) -> ServeResult:
    """Caption photos over HTTP until Ctrl-C or SIGTERM, then finish those under way.

    Raises:
        InputError: if there is no such model, the port is taken, Ray Serve is not installed, or the cluster has not
            what is asked for.
        ConflictError: if the cluster serves a model already.
        RaycapError: if the model cannot be loaded, or the server is gone.
    """
    started = time.monotonic()
    with running(config) as url, _signals_as_interrupts():
        say(f"photos are captioned at {url} (POST one there, or open the page); Ctrl-C ends it")
        try:
            _watch()
        except KeyboardInterrupt:
            say("finishing what is under way")
    return ServeResult(url=url, served_s=time.monotonic() - started)


@contextmanager
def running(config: ServeConfig) -> Iterator[str]:
    """Serve while the block runs; yield the URL. For the errors see `serve`."""
    _require_serve()
    config = _located(config)
    read_card(config.model)  # a damaged bundle, or a newer raycap's, ends here
    connect()
    _require_room(config)
    from ray import serve as ray_serve

    from raycap.serve_app import application

    if not os.environ.get("RAYCAP_VERBOSE"):
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    options = {"host": config.host, "port": config.port, "request_timeout_s": config.request_timeout_s}
    ray_serve.start(http_options=options)
    if APPLICATION in ray_serve.status().applications:  # which would be replaced, and deleted by whoever ends first
        raise ConflictError(
            "this cluster serves a model already; end that raycap serve first, or deploy raycap.serve:build_app under "
            "a name and a route of its own"
        )
    try:
        try:
            ray_serve.run(application(config), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise _reason(ray_serve.status(), error) from error
        host = f"[{config.host}]" if ":" in config.host else config.host
        yield f"http://{host}:{config.port}/"
    finally:
        ray_serve.delete(APPLICATION)  # waits for photos under way
        if is_own():
            ray_serve.shutdown()


def build_app(options: Mapping[str, Any]) -> Any:
    """Return the application for a config file of Ray Serve, `import_path: raycap.serve:build_app`.

    Args:
        options: `args` in that file: fields of `ServeConfig`, with `decoding` and `limits` as mappings; where it
            listens is `http_options` there.

    Raises:
        InputError: if an option is unknown or wrong, or there is no such model.
    """
    given = dict(options)
    if {"host", "port"} & given.keys():
        raise InputError("host and port are http_options of the Serve config, not args")
    preset = given.get("preset", ServeConfig.preset)
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; give one of {', '.join(PRESETS)}")
    try:
        values = {("model",): given.pop("model"), **preset_of(preset, decoding_alone=True)}
        defaults = build(ServeConfig, values)
        for name in ("decoding", "limits"):
            if name in given:
                given[name] = replace(getattr(defaults, name), **(given[name] or {}))
        config = replace(defaults, **given)
    except KeyError as error:
        raise InputError(f"args lacks {error}") from error
    except TypeError as error:
        raise InputError(f"args of raycap.serve:build_app: {error}") from error
    _require_serve()
    from raycap.serve_app import application

    return application(_located(config))


def _located(config: ServeConfig) -> ServeConfig:
    config = with_absolute(config, "model", "encoder_file")
    bundle = find_bundle(config.model)
    read_card(bundle).require_kept(config.decoding)
    return replace(config, model=bundle)


def _require_serve() -> None:
    if importlib.util.find_spec("starlette") is None:
        raise InputError('raycap serve needs Ray Serve: pip install "raycap[serve]"')


def _require_room(config: ServeConfig) -> None:
    now = Capacity.with_at_least(num_gpus=config.num_gpus * config.num_replicas)
    each = config.cpus_per_replica or 1
    if each > max(now.cpus) or (is_own() and each * config.num_replicas > sum(now.cpus)):
        raise InputError(
            f"{config.num_replicas} replicas of {each} CPUs have no room in {sum(now.cpus):g} CPUs, where a node has "
            f"{max(now.cpus):g} at most; give fewer --num-replicas or --cpus-per-replica"
        )
    if is_own():
        _require_free(config.host, config.port)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"cannot listen on {host}, port {port}: {error}; give another --port or --host") from error


def _reason(status: Any, error: Exception) -> RaycapError:
    """Return why an application could not be started: raycap's own error, if that is what its process raised."""
    application = status.applications.get(APPLICATION)
    messages = [each.message for each in application.deployments.values()] if application else []
    found = _OUR_ERROR.findall("\n".join([*messages, str(error)]))
    if not found:
        return RaycapError(f"the server could not be started: {error}")
    name, message = found[-1]
    kind: type[RaycapError] = getattr(errors, name, RaycapError)
    return kind(message)


def _watch() -> None:
    """Return never; raise if the application is gone."""
    from ray import serve as ray_serve

    while APPLICATION in ray_serve.status().applications:
        time.sleep(_LOOK_EVERY_S)
    raise RaycapError("the application was removed from the cluster")


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM, with which containers are stopped, do what Ctrl-C does."""
    was = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, was)
