//! Reads IoT Edge deployment manifests.
