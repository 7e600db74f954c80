//! Twins: merge patches, limits, versions.
