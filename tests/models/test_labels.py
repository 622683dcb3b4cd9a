"""The rule that turns distances and logits into labels."""

import torch

from vecset.models.labels import labels_of


def test_background_from_distance_zero_on_and_the_largest_logit_inside():
    sdf_Q = torch.tensor([-0.1, -0.1, 0.0, -0.0, 0.1])
    logits_QC = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    labels_Q = labels_of(sdf_Q, logits_QC)
    assert labels_Q.dtype == torch.uint8 and labels_Q.tolist() == [2, 1, 0, 0, 0]


def test_any_leading_shape_and_more_than_127_classes():
    sdf_BQ, logits_BQC = torch.full((2, 3), -1.0), torch.zeros(2, 3, 255)
    logits_BQC[1, 2, 254] = 1.0
    labels_BQ = labels_of(sdf_BQ, logits_BQC)
    assert labels_BQ.shape == (2, 3) and labels_BQ[1, 2] == 255 and labels_BQ[0].tolist() == [1, 1, 1]
    assert labels_of(sdf_BQ[0, 0], logits_BQC[0, 0]) == 1
