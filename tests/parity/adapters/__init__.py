"""How the published code's names map to ours, one module per model."""

from tests.parity.adapters import built_in, freedom, grcn, lgmrec, mambarec, mgcn, mmgcn, slmrec, vbpr

ADAPTERS = {
    "BPR": built_in.BPR,
    "LightGCN": built_in.LIGHT_GCN,
    "FREEDOM": freedom.ADAPTER,
    "GRCN": grcn.ADAPTER,
    "LGMRec": lgmrec.ADAPTER,
    "MGCN": mgcn.ADAPTER,
    "MMGCN": mmgcn.ADAPTER,
    "MambaRec": mambarec.ADAPTER,
    "SLMRec": slmrec.ADAPTER,
    "VBPR": vbpr.ADAPTER,
}
