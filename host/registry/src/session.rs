//! One repository, asked by one user. What is pulled, manifests, blobs and tokens, is asked for here, within bounds (see
//! `http`); pushes are oci-client's, and this says how long they may take and what their faults mean.
//!
//! Who is told a password is decided in `entry`. The library would ask the registry again and believe another answer, so it
//! gets what lets us in ready to show. A registry that asks for credentials must say so at `/v2/`.
//!
//! Decides nothing about content: digests and sizes are checked by the callers.

mod entry;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use marram_core::ports::Progress;
use oci_client::{Client, Reference, RegistryOperation, errors::Result as OciResult};
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_RANGE, HeaderValue, RANGE},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

use self::entry::Entry;
use crate::{
    answer::{Asker, Head, innermost, is_unauthorized},
    auth::{Login, Logins},
    digest::Digest,
    failure::{Failure, blocking},
    http::{Body, Transport, host_of, no_https, silent, upload_time},
    image::{Authority, RemoteImage},
    manifest::{ACCEPTED_MANIFESTS, Descriptor, MEDIA_TYPE_MANIFEST},
    range,
    retry::Retries,
};

/// Piece of an upload.
const UPLOAD_BYTES: usize = 64 << 10;

/// A repository, with what is known about how to be let in.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    registry: Authority,
    /// `scheme://host/v2/`.
    base: Url,
    image: Reference,
    operation: RegistryOperation,
    pub(crate) retries: Retries,
    logins: Logins<'a>,
    /// None: nobody has asked yet. Some(None): we are nobody there.
    login: OnceCell<Option<Login>>,
    /// None: we have not asked yet.
    entry: Mutex<Option<Arc<Entry>>>,
}

impl<'a> Session<'a> {
    /// Asks nobody yet.
    pub(crate) fn new(
        transport: &'a Transport,
        registry: &Authority,
        image: &RemoteImage,
        logins: Logins<'a>,
        operation: RegistryOperation,
        retries: Retries,
    ) -> Result<Self, Failure> {
        let scheme = if transport.is_plain(registry) { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/", registry.api());
        let base = Url::parse(&text).map_err(|err| Failure::refused(format!("{text}: {err}")))?;
        let tag = image.tag.clone().unwrap_or_default();
        Ok(Self {
            transport,
            registry: registry.clone(),
            base,
            image: Reference::with_tag(registry.api().to_string(), image.repository.clone(), tag),
            operation,
            retries,
            logins,
            login: OnceCell::new(),
            entry: Mutex::default(),
        })
    }

    /// Reads a manifest by tag or digest, at most `limit` bytes, and compares it with the digest that the registry gives.
    pub(crate) async fn manifest(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        self.retries.run(|| self.manifest_once(reference, limit)).await
    }

    async fn manifest_once(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let url = self.url("manifests", reference)?;
        let response =
            self.ask(|| self.transport.client().map(|c| c.get(url.clone()).header(ACCEPT, ACCEPTED_MANIFESTS)));
        let response = response.await?;
        let given = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let given = given.map(Digest::parse);
        let body = self.body(response, &format!("the manifest `{reference}`")).await?;
        let bytes = body.read("the manifest", limit).await?;
        let computed = Digest::of(&bytes);
        match given {
            Some(Ok(given)) if given != computed => Err(Failure::refused(format!(
                "digest mismatch: {} gives the manifest `{reference}` the digest {given}, but it has {computed}",
                self.registry
            ))),
            // No header, or one by another algorithm, which we cannot check.
            _ => Ok(bytes),
        }
    }

    /// Opens a blob at byte `offset`, or at its start when the registry cannot do that; says which. One try: whoever reads
    /// it knows how far he came.
    pub(crate) async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<(Body, u64), Failure> {
        if offset > 0
            && let Some(body) = self.rest_of_blob(blob, offset).await?
        {
            return Ok(body);
        }
        let (url, what) = (self.url("blobs", &blob.digest.to_string())?, format!("the blob {}", blob.digest));
        let response = self.ask(|| self.transport.client().map(|client| client.get(url.clone()))).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let host = host_of(response.url());
            return Err(Failure::refused(format!("{host} sent a part of {what} that nobody asked for")));
        }
        Ok((self.body(response, &what).await?, 0))
    }

    /// None: the registry sent another part than was asked for, or says that there is none.
    async fn rest_of_blob(&self, blob: &Descriptor, offset: u64) -> Result<Option<(Body, u64)>, Failure> {
        let (url, range) = (self.url("blobs", &blob.digest.to_string())?, format!("bytes={offset}-"));
        let request = || self.transport.client().map(|client| client.get(url.clone()).header(RANGE, &range));
        let response = self.ask(request).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let given = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                if !given.is_some_and(|given| range::is_rest(given, offset, blob.size)) {
                    tracing::warn!(
                        host = host_of(response.url()),
                        range,
                        ?given,
                        "the registry sent another part; the blob is fetched anew"
                    );
                    return Ok(None);
                }
                let body = self.body(response, "the rest of a blob").await?;
                Ok(Some((body, offset)))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
            _ => self.body(response, &format!("the blob {}", blob.digest)).await.map(|body| Some((body, 0))),
        }
    }

    /// Reads a manifest by tag; none when the registry has no such tag.
    pub(crate) async fn manifest_if_there(&self, tag: &str, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        self.retries.run(|| self.read_if_there("manifests", tag, limit)).await
    }

    /// Reads the index of what refers to a manifest; none when the registry keeps no such list.
    pub(crate) async fn referrers(&self, subject: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let subject = subject.to_string();
        self.retries.run(|| self.read_if_there("referrers", &subject, limit)).await
    }

    async fn read_if_there(&self, kind: &str, reference: &str, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let url = self.url(kind, reference)?;
        let request = || self.transport.client().map(|c| c.get(url.clone()).header(ACCEPT, ACCEPTED_MANIFESTS));
        let response = self.ask(request).await?;
        // What old registries answer to a call that they do not know.
        if matches!(
            response.status(),
            StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED
                | StatusCode::BAD_REQUEST
        ) {
            return Ok(None);
        }
        let body = self.body(response, &format!("`{kind}/{reference}`")).await?;
        body.read("the answer", limit).await.map(Some)
    }

    fn url(&self, kind: &str, reference: &str) -> Result<Url, Failure> {
        let path = format!("{}/{kind}/{reference}", self.image.repository());
        self.base.join(&path).map_err(|err| Failure::refused(format!("{}{path}: {err}", self.base)))
    }

    /// Uploads a blob unless it is there.
    pub(crate) async fn put_blob(
        &self,
        digest: &Digest,
        bytes: &Bytes,
        progress: &Arc<Progress>,
    ) -> Result<(), Failure> {
        self.retries.run(|| self.put_blob_once(digest, bytes, progress)).await
    }

    async fn put_blob_once(&self, digest: &Digest, bytes: &Bytes, progress: &Arc<Progress>) -> Result<(), Failure> {
        let (idle, name) = (self.transport.timeouts.idle, &digest.to_string());
        let look = |client: Client| async move { client.blob_exists(&self.image, name).await };
        // When this goes wrong, the upload says why.
        if self.call(idle, look).await?.unwrap_or(false) {
            return Ok(());
        }
        let limit = idle + upload_time(bytes.len() as u64, self.transport.timeouts.slowest);
        let size = bytes.len() as u64;
        let upload = |client: Client| async move {
            client.push_blob_stream(&self.image, told(bytes.clone(), progress), name, Some(size)).await
        };
        let done = self.call(limit, upload).await?;
        done.map_err(|err| self.asker().fault(&err, &format!("the upload of {digest}"))).map(|_| ())
    }

    /// Uploads the manifest under the image's tag.
    pub(crate) async fn put_manifest(&self, bytes: &Bytes) -> Result<(), Failure> {
        self.retries.run(|| self.put_manifest_once(bytes)).await
    }

    async fn put_manifest_once(&self, bytes: &Bytes) -> Result<(), Failure> {
        let limit = upload_time(bytes.len() as u64, self.transport.timeouts.slowest);
        let computed = Digest::of(bytes);
        let media_type = HeaderValue::from_static(MEDIA_TYPE_MANIFEST);
        let media_type = &media_type;
        let upload = |client: Client| async move {
            client.push_manifest_raw(&self.image, bytes.clone(), media_type.clone()).await
        };
        let done = self.call(limit, upload).await?;
        let what = || format!("the manifest `{}`", self.image.tag().unwrap_or_default());
        let location = done.map_err(|err| self.asker().fault(&err, &what()))?;
        // Most registries name the digest there.
        match location.rsplit('/').next().map(Digest::parse) {
            Some(Ok(given)) if given != computed => {
                Err(Failure::refused(format!("{} stored the manifest as {given}, not as {computed}", self.registry)))
            }
            _ => Ok(()),
        }
    }

    fn asker(&self) -> Asker<'_> {
        let user = self.login().map(|own| (own.username.as_str(), own.place.as_str()));
        Asker { registry: &self.registry, repository: self.image.repository(), user }
    }

    /// Lets the library do something, at most so long; once more when the token has run out.
    async fn call<T, F>(&self, limit: Duration, call: impl Fn(Client) -> F) -> Result<OciResult<T>, Failure>
    where
        F: Future<Output = OciResult<T>>,
    {
        let entry = self.entry().await?;
        let first = self.call_as(&entry, limit, &call).await?;
        if first.as_ref().err().is_some_and(is_unauthorized)
            && let Some(entry) = self.renew(&entry).await?
        {
            return self.call_as(&entry, limit, &call).await;
        }
        Ok(first)
    }

    async fn call_as<T, F>(
        &self,
        entry: &Entry,
        limit: Duration,
        call: impl Fn(Client) -> F,
    ) -> Result<OciResult<T>, Failure>
    where
        F: Future<Output = OciResult<T>>,
    {
        let answer = self.within(limit, call(self.client(entry).await?)).await?;
        if !answer.as_ref().err().is_some_and(is_unauthorized) {
            entry.worked.store(true, Relaxed);
        }
        Ok(answer)
    }

    /// The library panics on some answers (an upload location that is no URL): a registry must not end the task with that.
    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = OciResult<T>>,
    ) -> Result<OciResult<T>, Failure> {
        match timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Failure::refused(format!("{} sent an answer that makes no sense", self.registry))),
            Err(_) => Err(silent(&self.registry.to_string(), limit)),
        }
    }

    /// The library's client, which shows what let us in and never looks for more.
    async fn client(&self, entry: &Entry) -> Result<Client, Failure> {
        let make = async || {
            let config = self.transport.config(&self.registry.api(), self.base.scheme() == "http");
            let client = blocking(move || {
                // It makes a client with defaults too, and panics when that fails.
                reqwest::Client::builder().build().map_err(|err| no_https(&innermost(&err)))?;
                Client::try_from(config).map_err(|err| no_https(&err.to_string()))
            })
            .await?;
            self.equip(&client, &entry.pass).await;
            Ok(client)
        };
        entry.client.get_or_try_init(make).await.cloned()
    }

    /// Asks the registry; once more when the token has run out.
    async fn ask(&self, request: impl Fn() -> Result<RequestBuilder, Failure>) -> Result<Response, Failure> {
        let entry = self.entry().await?;
        let first = self.ask_as(&entry, request()?).await?;
        if first.status() == StatusCode::UNAUTHORIZED
            && let Some(entry) = self.renew(&entry).await?
        {
            return self.ask_as(&entry, request()?).await;
        }
        Ok(first)
    }

    async fn ask_as(&self, entry: &Entry, request: RequestBuilder) -> Result<Response, Failure> {
        let (idle, host) = (self.transport.timeouts.idle, self.registry.to_string());
        let answer = self.transport.send(self.show(&entry.pass, request), idle, &host).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            entry.worked.store(true, Relaxed);
        }
        Ok(answer)
    }

    /// Body of an answer to a request of our own, unless it is a refusal; not read yet.
    async fn body(&self, response: Response, what: &str) -> Result<Body, Failure> {
        let head = Head::of(&response);
        let body = Body::of_response(response, self.transport.timeouts);
        self.asker().check(head, what, body).await
    }
}

/// The bytes as the library takes them for an upload, and how far it is. It asks for the next piece when it has sent the
/// one before.
fn told(mut bytes: Bytes, progress: &Arc<Progress>) -> impl Stream<Item = OciResult<Bytes>> + Send + 'static {
    let (progress, total) = (progress.clone(), bytes.len() as u64);
    futures_util::stream::iter(std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(UPLOAD_BYTES));
        progress.set(total - bytes.len() as u64, total);
        (!piece.is_empty()).then_some(Ok(piece))
    }))
}
