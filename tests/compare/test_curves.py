"""The curves of a report."""

import math

from optimiz import compare


def test_running_mean_leaves_out_what_is_not_finite():
    assert compare.running_mean([1.0, math.nan, 3.0], share=0.67) == [1.0, 1.0, 3.0]
    assert math.isnan(compare.running_mean([math.nan], share=1.0)[0])
