//! Where an image comes from, registry or layout, behind one face. Bounds what it reads into memory; verifies small blobs;
//! a component's content is verified by the one who writes it.

use std::{fs::File, io::Read};

use bytes::Bytes;
use marram_core::retry::{Policy, Standby, Tries};

use crate::{
    digest::Digest,
    failure::{Failure, blocking},
    fetch::{expect_digest, wrong_size},
    http::Body,
    image::Image,
    layout::Layout,
    manifest::Descriptor,
    session::Session,
};

/// Piece in which a layout's files are read.
const READ_BYTES: usize = 256 << 10;

/// Where an image comes from.
pub(crate) enum Source<'a> {
    Registry(Box<Session<'a>>),
    Layout(Layout),
}

impl Source<'_> {
    /// The manifest or index that the reference names.
    pub(crate) async fn named_manifest(&self, image: &Image, limit: u64) -> Result<Vec<u8>, Failure> {
        match (self, image) {
            (Self::Registry(session), _) => {
                let digest = image.digest().map(|digest| digest.to_string());
                session.manifest(digest.as_deref().or(image.tag()).unwrap_or_default(), limit).await
            }
            (Self::Layout(layout), Image::Layout(image)) => {
                let (layout, image) = (layout.clone(), image.clone());
                let digest = blocking(move || layout.resolve(&image)).await?;
                self.layout_manifest(&digest, limit).await
            }
            (Self::Layout(_), Image::Remote(_)) => Err(Failure::refused("it is not in a layout")),
        }
    }

    /// An entry of an index.
    pub(crate) async fn manifest(&self, entry: &Descriptor, limit: u64) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Registry(session) => session.manifest(&entry.digest.to_string(), limit).await,
            Self::Layout(_) => self.layout_manifest(&entry.digest, limit).await,
        }
    }

    /// An index of what refers to this manifest; none where the source keeps no such list.
    pub(crate) async fn referrers(&self, subject: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Registry(session) => session.referrers(subject, limit).await,
            Self::Layout(layout) => {
                let (layout, subject) = (layout.clone(), *subject);
                blocking(move || layout.referrers(&subject, limit)).await
            }
        }
    }

    /// The manifest or index under a tag of the same repository; none when there is no such tag.
    pub(crate) async fn tagged(&self, tag: &str, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Registry(session) => session.manifest_if_there(tag, limit).await,
            Self::Layout(layout) => {
                let (layout, tag) = (layout.clone(), tag.to_owned());
                let digest = blocking(move || layout.tagged(&tag)).await?;
                match digest {
                    Some(digest) => self.layout_manifest(&digest, limit).await.map(Some),
                    None => Ok(None),
                }
            }
        }
    }

    async fn layout_manifest(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure> {
        let entry = Descriptor { media_type: String::new(), digest: *digest, size: limit };
        let (mut pieces, _) = self.open(&entry, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await? {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(Failure::refused(format!("its manifest is larger than {limit} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        expect_digest("the manifest", Some(*digest), Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A blob whose size has been found bearable.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Registry(session) => session.retries.run(|| self.small_blob_once(blob)).await,
            Self::Layout(_) => self.small_blob_once(blob).await,
        }
    }

    async fn small_blob_once(&self, blob: &Descriptor) -> Result<Vec<u8>, Failure> {
        let (mut pieces, _) = self.open(blob, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > blob.size {
                return Err(wrong_size(blob, bytes.len() as u64));
            }
        }
        expect_digest("the config", Some(blob.digest), Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// The first bytes of a blob, as many as there are. Not verified.
    pub(crate) async fn beginning(&self, blob: &Descriptor, bytes: usize) -> Result<Vec<u8>, Failure> {
        let (mut pieces, _) = self.open(blob, 0).await?;
        let mut beginning = Vec::new();
        while beginning.len() < bytes {
            let Some(piece) = pieces.next().await? else { break };
            beginning.extend_from_slice(&piece[..piece.len().min(bytes - beginning.len())]);
        }
        Ok(beginning)
    }

    /// Opens a blob at byte `offset`, or at its start; says which.
    pub(crate) async fn open(&self, blob: &Descriptor, offset: u64) -> Result<(Pieces, u64), Failure> {
        match self {
            Self::Registry(session) => {
                let (body, start) = session.blob(blob, offset).await?;
                // Said before it is sent: not worth reading.
                match body.announced() {
                    Some(bytes) if start.saturating_add(bytes) != blob.size => {
                        Err(wrong_size(blob, start.saturating_add(bytes)))
                    }
                    _ => Ok((Pieces::Http(body), start)),
                }
            }
            // Fast enough to begin anew.
            Self::Layout(layout) => {
                let (layout, digest) = (layout.clone(), blob.digest);
                blocking(move || layout.open(&digest)).await.map(|file| (Pieces::File(Some(file)), 0))
            }
        }
    }

    /// The tries of a download from here. What a layout cannot give now it cannot give in a second either.
    pub(crate) fn tries(&self) -> Tries {
        match self {
            Self::Registry(session) => session.retries.tries(),
            Self::Layout(_) => Tries::new(Policy { tries: 1, ..Policy::default() }, Standby::Nothing),
        }
    }
}

/// Content on its way.
pub(crate) enum Pieces {
    Http(Body),
    /// None while a piece is read.
    File(Option<File>),
}

impl Pieces {
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Http(body) => body.next().await,
            Self::File(slot) => {
                let Some(mut file) = slot.take() else { return Ok(None) };
                let (file, piece) = blocking(move || {
                    let mut piece = Vec::with_capacity(READ_BYTES);
                    let read = Read::by_ref(&mut file).take(READ_BYTES as u64).read_to_end(&mut piece);
                    read.map_err(|source| Failure::Disk { action: "read the layout".to_owned(), source })?;
                    Ok((file, piece))
                })
                .await?;
                *slot = Some(file);
                Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
            }
        }
    }
}
