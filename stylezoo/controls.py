"""What `stylezoo.stylize` and the command ``stylize`` both take: choices, and descriptions for their docstrings.

Nothing here imports PyTorch: the command line reads its options before it knows whether a model is needed.
"""

from typing import Literal

Kind = Literal["arbitrary", "multi", "single", "optimization"]
"""What a system takes as style: any image, one of its trained styles, nothing, or images that it optimizes towards."""

PreserveColor = Literal["none", "coral", "luminance"]
"""How the colors of the content are kept."""

CONTROLS = {
    "alpha": "Strength of the style, 0 to 1.",
    "style_weights": (
        "Blend the styles, one weight per style (1,2,1 on the command line); they are normalized to sum 1."
    ),
    "preserve_color": (
        "Keep the content's colors: ``coral`` gives the style the content's colors before it is encoded, ``luminance``"
        " takes only brightness from the output."
    ),
    "masks": (
        "Regions of the styles: one gray image per style, white where it applies, or one image for two styles, white for"
        " the first."
    ),
    "size": "Short side in pixels to which the content is resized first; None keeps its size.",
    "style_size": "The same for the styles; None keeps theirs. Larger styles give coarser strokes.",
    "tile": (
        "Side in pixels of the tiles in which the model works, for images that would not fit into memory; the result is"
        " the same."
    ),
    "device": "Where to compute: ``auto``, ``cpu``, ``cuda``, ``mps`` ...; None leaves the model where it is.",
}
"""Descriptions of the controls, {name: description}."""
