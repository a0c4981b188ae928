"""CRANE as released is another model than the CRANE of this package."""

REASON = "this package's CRANE is a design of its own within the paper's abstract, not the released code"
