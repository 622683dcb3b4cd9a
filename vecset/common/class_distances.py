"""The signed distance to each class: what stands for one that is not there."""

# Unit. Of a class without voxels, at every point. The heart lies in a ball of radius 0.95, so that a class which is
# there is nearer than this to every surface point. In a corner of the unit cube it may be farther.
ABSENT_DISTANCE = 2.0
