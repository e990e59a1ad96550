"""Models measured on pairs of content and style: `evaluate`, and the folder of results that it fills."""

from stylezoo.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
