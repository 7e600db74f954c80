//! A component on its way to the disk: written piece by piece, hashed on the way, put in its place when all of it is right.
//! It begins with what an earlier transfer left (see `partial`), and tells how far it is.
//!
//! Asks nobody: the pieces are brought by `fetch`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use marram_core::ports::Progress;
use tokio::time::Instant;

use crate::{
    cache::Cache,
    digest::Hasher,
    failure::{Failure, blocking},
    fetch::expect_digest,
    inspect::{PREAMBLE_BYTES, check_preamble},
    manifest::Descriptor,
    partial::Part,
};

/// Bytes gathered before they are written: a call to the disk thread costs more than a network packet. What a kill of the
/// host loses; on the slowest line that is waited for it is half a minute.
const WRITE_BYTES: usize = 64 << 10;
/// Time between two log lines of one download.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A component being written. What has arrived stays in the cache when this is dropped before the end.
pub(crate) struct Download {
    cache: Arc<Cache>,
    layer: Descriptor,
    part: Part,
    hasher: Hasher,
    received: u64,
    buffer: Vec<u8>,
    looked_at: bool,
    /// Its bytes came in more than one transfer.
    mixed: bool,
    progress: Arc<Progress>,
    told: Instant,
}

/// What becomes of a download that has all its bytes.
pub(crate) enum Finished {
    /// The component's file.
    Kept(PathBuf),
    /// What one of several transfers brought is wrong, and nobody knows which: it has been emptied, to begin anew.
    Emptied(Box<Download>),
}

impl Download {
    /// Goes on with what is there of this blob.
    pub(crate) async fn start(cache: Arc<Cache>, layer: Descriptor, progress: Arc<Progress>) -> Result<Self, Failure> {
        blocking(move || {
            let (mut part, mut hasher, mut received) = cache.part(&layer.digest, layer.size)?;
            // Too short to be looked at is nothing lost.
            if received < PREAMBLE_BYTES as u64 || check_preamble(&part.beginning(PREAMBLE_BYTES)?).is_err() {
                part.empty()?;
                (hasher, received) = (Hasher::new(), 0);
            }
            progress.set(received, layer.size);
            let (looked_at, mixed) = (received > 0, received > 0);
            let (buffer, told) = (Vec::new(), Instant::now());
            Ok(Self { cache, layer, part, hasher, received, buffer, looked_at, mixed, progress, told })
        })
        .await
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.received == self.layer.size
    }

    /// A transfer begins at byte `start`, which is where this download is, or 0: then what was there is forgotten.
    pub(crate) async fn begin(mut self, start: u64) -> Result<Self, Failure> {
        if start == self.received && start > 0 {
            self.mixed = true;
            return Ok(self);
        }
        self.empty().await
    }

    async fn empty(mut self) -> Result<Self, Failure> {
        self.hasher = Hasher::new();
        self.buffer.clear();
        (self.received, self.looked_at, self.mixed) = (0, false, false);
        self.progress.set(0, self.layer.size);
        blocking(move || self.part.empty().map(|()| self)).await
    }

    /// Takes a piece; breaks off at the first byte too much and at a beginning that is no component's. After a fault
    /// nothing of it is kept.
    pub(crate) async fn take(mut self, piece: Bytes) -> Result<Self, Failure> {
        self.received += piece.len() as u64;
        if let Err(failure) = self.check(&piece) {
            self.part.discard();
            return Err(failure);
        }
        self.progress.set(self.received, self.layer.size);
        self.tell();
        if self.buffer.len() >= WRITE_BYTES { self.write().await } else { Ok(self) }
    }

    fn check(&mut self, piece: &Bytes) -> Result<(), Failure> {
        if self.received > self.layer.size {
            let Descriptor { digest, size, .. } = &self.layer;
            return Err(Failure::refused(format!(
                "size mismatch: more than the {size} bytes arrived that its manifest announces for {digest}"
            )));
        }
        self.hasher.update(piece);
        self.buffer.extend_from_slice(piece);
        if !self.looked_at && self.buffer.len() >= PREAMBLE_BYTES {
            check_preamble(&self.buffer[..PREAMBLE_BYTES])?;
            self.looked_at = true;
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (bytes, of, digest) = (self.received, self.layer.size, &self.layer.digest);
            tracing::info!(bytes, of, %digest, "downloading");
        }
    }

    /// Brings to the disk what has arrived. A disk that does not take it gets its room back.
    pub(crate) async fn write(mut self) -> Result<Self, Failure> {
        blocking(move || {
            if let Err(failure) = self.part.write(&self.buffer) {
                self.part.discard();
                return Err(failure);
            }
            self.buffer.clear();
            Ok(self)
        })
        .await
    }

    /// Verifies all of it, and puts the file in its place. All bytes must be there.
    pub(crate) async fn finish(self) -> Result<Finished, Failure> {
        if !self.looked_at
            && let Err(failure) = check_preamble(&self.buffer)
        {
            self.part.discard();
            return Err(failure);
        }
        let mut done = self.write().await?;
        let computed = std::mem::replace(&mut done.hasher, Hasher::new()).finish();
        match expect_digest("the component", Some(done.layer.digest), computed) {
            Ok(()) => {}
            Err(failure) if done.mixed => {
                tracing::warn!(reason = %failure, "a download in parts went wrong; it begins anew");
                return done.empty().await.map(|empty| Finished::Emptied(Box::new(empty)));
            }
            Err(failure) => {
                done.part.discard();
                return Err(failure);
            }
        }
        blocking(move || done.cache.keep(&done.part, &done.layer.digest).map(Finished::Kept)).await
    }
}
