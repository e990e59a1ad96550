"""Exact tiles that stream: any system's code, evaluated window by window in little memory.

`StreamedMap` is a tensor that is computed window by window. A model's code runs with it as with an image; afterwards the
windows of its output are computed one after another.
"""

from stylezoo.streaming import operations  # noqa: F401 - fills the table of rules
from stylezoo.streaming.maps import Source, Stream, StreamedMap, assembled, sweep, whole
from stylezoo.streaming.memory import Budget, InMemory, Window, free_memory
from stylezoo.streaming.runs import THUMBNAIL, estimated_memory, lazily, streamed
from stylezoo.streaming.statistics import Recorder

__all__ = [
    "THUMBNAIL",
    "Budget",
    "InMemory",
    "Recorder",
    "Source",
    "Stream",
    "StreamedMap",
    "Window",
    "assembled",
    "estimated_memory",
    "free_memory",
    "lazily",
    "streamed",
    "sweep",
    "whole",
]
