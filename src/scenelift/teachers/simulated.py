"""Two teachers made from ground truth: one errs as CLIP does, the other as SAM.

The defaults of their knobs were calibrated once on four numbers of the paper, before any network was
trained, and are frozen: ``benchmarks/calibrate_simulated.py`` prints what was aimed at and what is reached.
"""

from scenelift.teachers.simulated_labels import SimulatedLabelTeacher
from scenelift.teachers.simulated_masks import SimulatedMaskTeacher

__all__ = ["SimulatedLabelTeacher", "SimulatedMaskTeacher"]
