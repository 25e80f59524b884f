"""Two teachers made from ground truth: one errs as CLIP does, the other as SAM."""

from scenelift.teachers.simulated_labels import SimulatedLabelTeacher
from scenelift.teachers.simulated_masks import SimulatedMaskTeacher

__all__ = ["SimulatedLabelTeacher", "SimulatedMaskTeacher"]
