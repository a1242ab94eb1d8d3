"""How far back memories reach: traces, sensitivity, retention, probes."""

from __future__ import annotations

import torch
from test_heads import C, clips, close, every_memory, every_readout, make

from videomem.heads import LastReadout, MeanReadout
from videomem.horizon.trace import trace


@every_memory
@every_readout
def test_a_trace_ends_in_the_answer_of_the_head(name: str, readout: type[MeanReadout] | type[LastReadout]) -> None:
    head = make(name, readout, num_layers=2)
    x, _ = clips()
    full = torch.full((len(x),), x.shape[1])
    for direct in (False, True):
        traced = trace(head, x, direct)
        assert close(traced.logits_BTC, head.frame_logits(x, full))
        assert close(traced.answers_BTC[:, -1], head(x, full))
        assert traced.answers_BTC.shape == (*x.shape[:2], C)
        assert all(((layer.keep_BTH >= 0) & (layer.keep_BTH <= 1)).all() for layer in traced.layers)
