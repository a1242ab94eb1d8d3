"""Heads: classifiers of a clip's frame features. They differ only in their memory."""

from videomem.heads.head import FeatureNorm, Head, HeadState, MemoryFactory
from videomem.heads.memory import RNN, Gated, Leaky, Memory, NoMemory, ParallelMemory, State, Update
from videomem.heads.parallel import MinGRU, MinLSTM
from videomem.heads.readout import LastReadout, MeanReadout, Readout
from videomem.heads.recurrent import GRU, LSTM
from videomem.heads.scan import linear_scan

__all__ = [
    "GRU", "LSTM", "MEMORIES", "READOUTS", "RNN", "FeatureNorm", "Gated", "Head", "HeadState", "LastReadout", "Leaky",
    "MeanReadout", "Memory", "MemoryFactory", "MinGRU", "MinLSTM", "NoMemory", "ParallelMemory", "Readout", "State",
    "Update", "linear_scan",
]  # fmt: skip

# The classes that an exported folder may name. No other class is imported from it.
MEMORIES = {cls.__name__: cls for cls in (NoMemory, Leaky, RNN, Gated, GRU, LSTM, MinGRU, MinLSTM)}
READOUTS = {cls.__name__: cls for cls in (MeanReadout, LastReadout)}
