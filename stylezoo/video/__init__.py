"""Reading and writing of clips: video files and cameras through PyAV, animated GIF and WebP through Pillow."""

from typing import TYPE_CHECKING

from stylezoo.lazy import lazy_names

if TYPE_CHECKING:
    from stylezoo.video.clips import check_clip_target, clip_problem, create_clip, is_clip, open_clip
    from stylezoo.video.formats import VIDEO_SUFFIXES, Clip, ClipWriter, Frame, VideoError

__all__ = [
    "VIDEO_SUFFIXES",
    "Clip",
    "ClipWriter",
    "Frame",
    "VideoError",
    "check_clip_target",
    "clip_problem",
    "create_clip",
    "is_clip",
    "open_clip",
]

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Clip": ".formats",
            "ClipWriter": ".formats",
            "Frame": ".formats",
            "VIDEO_SUFFIXES": ".formats",
            "VideoError": ".formats",
            "check_clip_target": ".clips",
            "clip_problem": ".clips",
            "create_clip": ".clips",
            "is_clip": ".clips",
            "open_clip": ".clips",
        },
    )
