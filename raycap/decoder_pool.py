"""Strangers' photos, decoded in processes of their own that can be ended. Knows Ray, and nothing of who asks."""

import asyncio
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycap.errors import ImageDecodeError, ImageError
from raycap.images import DecodedImage
from raycap.photo_decoder import PhotoDecoder
from raycap.photo_reader import too_late


class DecoderPool:
    """Processes on this node that decode photos, each one at a time, for the event loop of one process.

    A photo that takes too long, or a library that a damaged one takes down, costs such a process, and another is
    started: whoever asks neither dies of it nor stalls, as Pillow may decode for seconds without letting other threads
    run.
    """

    def __init__(self, decoder: PhotoDecoder, num_processes: int) -> None:
        """Start the processes.

        Args:
            decoder: what they do, within its limits.
            num_processes: photos decoded at once; others wait.
        """
        self._decoder = decoder
        self._under_way: set[asyncio.Task[DecodedImage | ImageError]] = set()
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(num_processes):
            self._idle.put_nowait(self._start())

    async def decode(self, photo: bytes) -> DecodedImage:
        """Return a photo's pixels.

        Raises:
            ImageError: if it cannot be used, or not in time, or takes its process down.
        """
        process = await self._idle.get()
        # if nobody waits for it any more it is done all the same, as its process is no use before
        decoding = asyncio.create_task(self._decode(process, photo))
        self._under_way.add(decoding)
        decoding.add_done_callback(self._under_way.discard)
        image = await asyncio.shield(decoding)
        if isinstance(image, ImageError):
            raise image
        return image

    async def _decode(self, process: Any, photo: bytes) -> DecodedImage | ImageError:
        try:
            await process.__ray_ready__.remote()  # one just started takes seconds, which are not the photo's
            decoding = process.decode.remote(photo)
            image: DecodedImage | ImageError = await asyncio.wait_for(decoding, self._decoder.limits.photo_timeout_s)
        except (TimeoutError, RayActorError) as error:
            ray.kill(process)
            process = self._start()
            if isinstance(error, RayActorError):
                return ImageDecodeError("the process that decoded it died of it")
            return too_late(self._decoder.limits)
        finally:
            self._idle.put_nowait(process)
        return image

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return _Process.options(scheduling_strategy=here).remote(self._decoder)  # type: ignore[attr-defined]


@ray.remote(num_cpus=0)
class _Process:
    def __init__(self, decoder: PhotoDecoder) -> None:
        self._decoder = decoder

    def decode(self, photo: bytes) -> DecodedImage | ImageError:
        return self._decoder.decode_one(photo)
