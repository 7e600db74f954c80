//! A component on its way to the disk: written piece by piece, hashed on the way, put in its place when all of it is right.
//!
//! Asks nobody: the pieces are brought by `fetch`.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    cache::{Cache, Temporary},
    digest::Hasher,
    failure::{Failure, blocking},
    fetch::expect_digest,
    inspect::{PREAMBLE_BYTES, check_preamble},
    manifest::Descriptor,
};

/// Bytes gathered before they are written: a call to the disk thread costs more than a network packet.
const WRITE_BYTES: usize = 256 << 10;

/// A component being written to the cache's temporary folder; gone when dropped before [`Download::finish`].
pub(crate) struct Download {
    cache: Arc<Cache>,
    layer: Descriptor,
    temporary: Temporary,
    hasher: Hasher,
    received: u64,
    buffer: Vec<u8>,
    looked_at: bool,
}

impl Download {
    pub(crate) async fn start(cache: Arc<Cache>, layer: Descriptor) -> Result<Self, Failure> {
        let owner = cache.clone();
        let temporary = blocking(move || owner.temporary()).await?;
        let (hasher, buffer) = (Hasher::new(), Vec::new());
        Ok(Self { cache, layer, temporary, hasher, received: 0, buffer, looked_at: false })
    }

    /// Takes a piece; breaks off at the first byte too much and at a beginning that is no component's.
    pub(crate) async fn take(mut self, piece: Bytes) -> Result<Self, Failure> {
        self.received += piece.len() as u64;
        if self.received > self.layer.size {
            let Descriptor { digest, size, .. } = &self.layer;
            return Err(Failure::refused(format!(
                "size mismatch: more than the {size} bytes arrived that its manifest announces for {digest}"
            )));
        }
        self.hasher.update(&piece);
        self.buffer.extend_from_slice(&piece);
        if !self.looked_at && self.buffer.len() >= PREAMBLE_BYTES {
            check_preamble(&self.buffer[..PREAMBLE_BYTES])?;
            self.looked_at = true;
        }
        if self.buffer.len() >= WRITE_BYTES { self.write().await } else { Ok(self) }
    }

    async fn write(mut self) -> Result<Self, Failure> {
        blocking(move || {
            self.temporary.write(&self.buffer)?;
            self.buffer.clear();
            Ok(self)
        })
        .await
    }

    /// Verifies, and puts the file in its place.
    pub(crate) async fn finish(self) -> Result<PathBuf, Failure> {
        let Descriptor { digest, size, .. } = &self.layer;
        if self.received < *size {
            // Without an announced length, an end is also what a broken connection looks like.
            return Err(Failure::Unreachable(format!(
                "only {} of the {size} bytes of {digest} arrived",
                self.received
            )));
        }
        if !self.looked_at {
            check_preamble(&self.buffer)?;
        }
        let mut done = self.write().await?;
        let computed = std::mem::replace(&mut done.hasher, Hasher::new()).finish();
        expect_digest("the component", Some(done.layer.digest), computed)?;
        blocking(move || done.cache.keep(&mut done.temporary, &done.layer.digest)).await
    }
}
