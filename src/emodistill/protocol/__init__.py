"""Protocols: folds of a corpus, and the audit that refuses leaks."""

from emodistill.protocol.audit import Audit, audit_protocol, audit_teacher, identical_recordings
from emodistill.protocol.fixed_lists import FIXED_FOLDS, FIXED_SPLITS
from emodistill.protocol.folds import SPLITS, Fold, Protocol, build_protocol, read_protocol

__all__ = [
    "FIXED_FOLDS",
    "FIXED_SPLITS",
    "SPLITS",
    "Audit",
    "Fold",
    "Protocol",
    "audit_protocol",
    "audit_teacher",
    "build_protocol",
    "identical_recordings",
    "read_protocol",
]
