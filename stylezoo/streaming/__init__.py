"""Exact tiles that stream: any system's code, evaluated window by window in little memory.

`StreamedMap` is a tensor that is computed window by window. A model's code runs with it as with an image; afterwards the
windows of its output are computed one after another.
"""

from stylezoo.streaming import operations  # noqa: F401 - fills the table of rules
from stylezoo.streaming.runs import streamed
from stylezoo.streaming.maps import Stream, StreamedMap, assembled, sweep, whole
from stylezoo.streaming.memory import Budget, InMemory, Window, free_memory
from stylezoo.streaming.statistics import Recorder

__all__ = ["Budget", "InMemory", "Recorder", "Stream", "StreamedMap", "Window", "assembled", "free_memory", "streamed", "sweep", "whole"]
