"""A trained policy as files that run without this project: `torch.export`, ONNX, a model card, and a script that plays with them.

A new encoder with operations that depend on the data needs an entry in `encoders.FORMS`, a new action distribution one in `outputs.FORMS`.
"""

from mtrl.evaluation.export.exported import Exported
from mtrl.evaluation.export.play import play_script
from mtrl.evaluation.export.portable import PortableActor
from mtrl.evaluation.export.writing import export_run

__all__ = ["Exported", "PortableActor", "export_run", "play_script"]
