"""Thresholds in words, how values are judged, and the worst of several."""

from vecset.quality.thresholds import FileReport, excess, limit_text


def test_thresholds_can_be_read():
    assert limit_text("shift") == "at most 0.15 voxels" and limit_text("sign") == "at most 0.002 share"
    assert limit_text("vol_inside") == "0.49 to 0.51 share" and limit_text("frame") == "exactly 1"
    assert limit_text("frame_centre") == "at most 1 voxel"
    report = FileReport("a", "a.npz")
    report.add("shift", float("nan"))
    assert not report.passed  # NaN never passes


def test_the_worst_of_a_one_sided_check_is_the_one_nearest_its_threshold():
    assert excess("distance_mean", 0.3) > excess("distance_mean", 0.0)  # 'at most': 0 is the best value
    assert excess("normals_outward", 0.6) > excess("normals_outward", 1.0)  # 'at least': 1 is
    assert excess("distance_mean", -1.0) > 0
