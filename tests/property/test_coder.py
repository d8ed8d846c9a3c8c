"""The coder's law: decoding what was encoded gives the box back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from onestage.model.anchors.coder import BoxCoder

position, side = st.floats(-500, 1500, width=32), st.floats(1, 600, width=32)
box = st.tuples(position, position, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
variance = st.floats(0.05, 2)


@given(box, box, st.tuples(variance, variance, variance, variance))
def test_decode_undoes_encode(anchor, target, variances):
    coder = BoxCoder(variances, max_log_scale=7.0)
    anchor, target = torch.tensor([anchor, target])
    torch.testing.assert_close(coder.decode(anchor, coder.encode(anchor, target)), target, atol=0.02, rtol=1e-5)


@given(box, st.lists(st.floats(-4, 4), min_size=4, max_size=4))
def test_encode_undoes_decode(anchor, deltas):
    coder = BoxCoder()
    anchor, deltas = torch.tensor(anchor).double(), torch.tensor(deltas).double()
    torch.testing.assert_close(coder.encode(anchor, coder.decode(anchor, deltas)), deltas, atol=1e-5, rtol=1e-5)


@given(box, st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4))
def test_decoding_is_finite_and_right_side_out(anchor, deltas):
    decoded = BoxCoder().decode(torch.tensor(anchor), torch.tensor(deltas))
    assert decoded.isfinite().all()
    assert (decoded[2:] >= decoded[:2]).all()
