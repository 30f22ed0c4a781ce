"""Does a dataset on disk say what coop3d believes it says? Layout, calibration, depth, clouds, panoramas, masks.

Each check measures something that one of the classic mistakes (rotation order, handedness, z taken as range,
cropped photographs, rays from the wrong origin, depth averaged across edges, masks that mean coverage) would move
far outside its expected band. What stitching did is judged from its result, against files and calibration.
"""

from coop3d.datasets.doctor.examine import examine, examine_all

__all__ = ["examine", "examine_all"]
