"""Models as files that run without this package: ONNX, and programs of torch.export."""

from stylezoo.exporters.files import Exported, export

__all__ = ["Exported", "export"]
