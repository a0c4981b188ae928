"""How the published code's names map to ours, one module per model."""

from tests.parity.adapters import built_in, freedom, lgmrec, mambarec, mgcn, vbpr

ADAPTERS = {
    "BPR": built_in.BPR,
    "LightGCN": built_in.LIGHT_GCN,
    "FREEDOM": freedom.ADAPTER,
    "LGMRec": lgmrec.ADAPTER,
    "MGCN": mgcn.ADAPTER,
    "MambaRec": mambarec.ADAPTER,
    "VBPR": vbpr.ADAPTER,
}
