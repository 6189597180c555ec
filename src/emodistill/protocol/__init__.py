"""Protocols: folds of a corpus, and the audit that refuses leaks."""

from emodistill.protocol.audit import (
    RARE,
    Audit,
    absent_from_training,
    audit_protocol,
    audit_teacher,
    class_warnings,
    count_classes,
    identical_recordings,
    ids_of,
    notes_for_scores,
    warn_of_equal_ids,
)
from emodistill.protocol.dimensions import (
    DimensionCounts,
    check_dimensions,
    count_dimensions,
    dimension_warnings,
)
from emodistill.protocol.fixed_lists import FIXED_FOLDS, FIXED_SPLITS
from emodistill.protocol.folds import SPLITS, Fold, Protocol, build_protocol, read_protocol

__all__ = [
    "FIXED_FOLDS",
    "FIXED_SPLITS",
    "RARE",
    "SPLITS",
    "Audit",
    "DimensionCounts",
    "Fold",
    "Protocol",
    "absent_from_training",
    "audit_protocol",
    "audit_teacher",
    "build_protocol",
    "check_dimensions",
    "class_warnings",
    "count_classes",
    "count_dimensions",
    "dimension_warnings",
    "identical_recordings",
    "ids_of",
    "notes_for_scores",
    "read_protocol",
    "warn_of_equal_ids",
]
