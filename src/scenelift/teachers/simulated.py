"""Two teachers made from ground truth: `SimulatedLabelTeacher` errs as CLIP does, `SimulatedMaskTeacher` as SAM.
"""

from scenelift.teachers.simulated_labels import SimulatedLabelTeacher
from scenelift.teachers.simulated_masks import SimulatedMaskTeacher

__all__ = ["SimulatedLabelTeacher", "SimulatedMaskTeacher"]
