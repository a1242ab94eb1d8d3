"""Heads: classifiers of a clip's frame features, composed of a memory and a readout."""

from videomem.heads.head import FeatureNorm, Head, HeadState, MemoryFactory, ReadoutFactory
from videomem.heads.memory import RNN, Gated, Leaky, Memory, NoMemory, ParallelMemory, State, Update
from videomem.heads.order_aware import Position, TemporalConv
from videomem.heads.parallel import MinGRU, MinLSTM
from videomem.heads.readout import (
    AttentionReadout,
    BestFrameReadout,
    LastReadout,
    MaxReadout,
    MeanReadout,
    Readout,
    SetReadout,
)
from videomem.heads.recurrent import GRU, LSTM
from videomem.heads.scan import linear_scan

__all__ = [
    "GRU", "LSTM", "MEMORIES", "READOUTS", "RNN", "AttentionReadout", "BestFrameReadout", "FeatureNorm", "Gated",
    "Head", "HeadState", "LastReadout", "Leaky", "MaxReadout", "MeanReadout", "Memory", "MemoryFactory", "MinGRU",
    "MinLSTM", "NoMemory", "ParallelMemory", "Position", "Readout", "ReadoutFactory", "SetReadout", "State",
    "TemporalConv", "Update", "linear_scan",
]  # fmt: skip

# The classes that an exported folder may name. No other class is imported from it.
MEMORIES = {
    cls.__name__: cls for cls in (NoMemory, Leaky, RNN, Gated, GRU, LSTM, MinGRU, MinLSTM, Position, TemporalConv)
}
READOUTS = {
    cls.__name__: cls for cls in (MeanReadout, LastReadout, AttentionReadout, MaxReadout, BestFrameReadout, SetReadout)
}
