"""PyAV, imported when it is needed, and what its errors mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stylezoo.files import problem
from stylezoo.images.formats import shown
from stylezoo.video.formats import CAMERA, VideoError, is_camera, one_line


def pyav() -> Any:
    """Imports PyAV.

    Raises:
        VideoError: If it is not installed.
    """
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder reports its settings otherwise
    try:
        import av
        import av.error
        import av.video.reformatter
    except ImportError as error:
        raise VideoError(
            f"Videos need PyAV, which cannot be imported ({one_line(error)}): pip install stylezoo[video]."
        ) from error
    return av


@contextmanager
def same_priority() -> Iterator[None]:
    """A ``with`` block in which an encoder is opened: afterwards all threads have the scheduling that this one had before.

    SVT-AV1 gives itself and the thread that opens it the highest real-time priority where it may, as root in a container. They
    would keep a processor from everything else on the machine, and from every process that is started later.
    """
    if not hasattr(os, "sched_setscheduler") or not os.path.isdir("/proc/self/task"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(OSError):  # it has ended, or may not be changed
                if os.sched_getscheduler(thread) in (os.SCHED_FIFO, os.SCHED_RR):
                    os.sched_setscheduler(thread, policy, parameters)


DEMUXERS = ("asf", "avi", "flv", "matroska", "webm", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "m4v", "ogg")
"""FFmpeg's names of the containers that are read. Without a list it goes by the contents of a file, whatever its suffix, and
some of its formats are lists of other files, also on the network."""

CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
"""{platform: (FFmpeg's name of the devices, the address of one)}."""


def open_input(source: str | os.PathLike[str]) -> Any:
    """Opens a video file or a camera for reading.

    Args:
        source: Path of a file, or ``camera:0``, where 0 is the number of the camera (on Windows its name).

    Raises:
        VideoError: If there is none, or it is no video that FFmpeg knows.
    """
    av, name = pyav(), shown(source)
    try:
        if is_camera(source):
            return _open_camera(os.fspath(source).removeprefix(CAMERA))
        os.stat(source)  # FFmpeg would take an address, and a name such as file:x
        options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
        return av.open(os.path.abspath(source), "r", container_options=options, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        if is_camera(source):
            raise VideoError(f"{name} cannot be opened: {one_line(error)}.") from error
        if os.path.isfile(source) and not os.path.getsize(source):
            raise VideoError(f"{name} is empty (0 bytes).") from error
        raise VideoError(f"{name} is no video, or one that breaks off or is damaged from its beginning.") from error
    except OSError as error:
        if is_camera(source):
            raise VideoError(
                f"There is no {name} that can be opened ({one_line(error)}): connect it, or give another number."
            ) from error
        raise VideoError(f"{name} {problem(error)}.") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{name} cannot be read: {one_line(error)}.") from error


def _open_camera(number: str) -> Any:
    if sys.platform not in CAMERAS:
        raise VideoError(f"Cameras are not supported on {sys.platform}: record a file first.")
    if not number:
        raise VideoError("A camera has a number, such as camera:0.")
    device, address = CAMERAS[sys.platform]
    return pyav().open(address.format(number), "r", format=device)
