"""A trained policy as a file that torch alone can run: `torch.export`, a model card, and a script that plays with it.

For one task the mixture can be folded: the task's weights become constants, and the heads of the other tasks and the experts without any
effect are left out. With Gram-Schmidt these are the experts after the last one with a weight: each expert is made orthogonal to the earlier
ones, so that an earlier expert changes the later ones even at weight 0. Without Gram-Schmidt these are all experts at weight 0.
"""

from mtrl.evaluation.export.exported import Exported
from mtrl.evaluation.export.play import play_script
from mtrl.evaluation.export.portable import OwnHead, PortableActor, PortableHead, example_inputs
from mtrl.evaluation.export.writing import export_run

__all__ = ["Exported", "OwnHead", "PortableActor", "PortableHead", "example_inputs", "export_run", "play_script"]
