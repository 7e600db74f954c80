//! Which signatures are attached to a manifest: found where `cosign` and `notation` put them, and read as far as they say
//! what they are about and by whom. **Nothing is verified here**: what is told is what somebody claims.
//!
//! Where they are: the registry's list of referrers, or the tag `sha256-HEX` that holds that list where a registry has no such
//! list; and cosign's old tag `sha256-HEX.sig`. In a layout: entries of its index, by those names or by their `subject`.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    digest::Digest,
    failure::Failure,
    manifest::{self, Descriptor, Document},
    source::Source,
};

const COSIGN_PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const NOTATION: &str = "application/vnd.cncf.notary.signature";
const NOTATION_THUMBPRINTS: &str = "io.cncf.notary.x509chain.thumbprint#S256";
const COSIGN_CERTIFICATE: &str = "dev.sigstore.cosign/certificate";

/// Largest signature, payload or manifest of one that is read; they have some kilobytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most artifacts that are looked at for one manifest. Each is a request or two; who signs more often re-signs on a timer.
const MAX_REFERRERS: usize = 32;

/// A signature that is attached. Not verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// How it is written.
    pub kind: SignatureKind,
    /// `sha256:…` of the manifest that carries it.
    pub digest: String,
    /// `sha256:…` of the manifest or index that it is attached to.
    pub subject: String,
    /// `sha256:…` that it says it signs; none where that cannot be read. Another one than `subject` signs something else.
    pub signs: Option<String>,
    /// What it says of its key, e.g. a hint or a thumbprint; none when it says nothing.
    pub key: Option<String>,
    /// Type of the statement that is signed, for attestations.
    pub statement: Option<String>,
    /// `referrers`, or the tag it was found under.
    pub found: String,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureKind {
    /// cosign's first form: a payload that names the digest, the signature in an annotation.
    Cosign,
    /// A bundle of Sigstore, as cosign 3 writes it.
    SigstoreBundle,
    /// notation's.
    Notation,
}

impl SignatureKind {
    /// As in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosign => "cosign",
            Self::SigstoreBundle => "sigstore-bundle",
            Self::Notation => "notation",
        }
    }
}

/// All that are attached to these documents. A list that a registry does not have is no fault; one that cannot be had is.
pub(crate) async fn signatures(source: &Source<'_>, subjects: &[Digest]) -> Result<Vec<Signature>, Failure> {
    let mut found: Vec<Signature> = Vec::new();
    for subject in subjects {
        for (bytes, place) in attached(source, subject).await? {
            for signature in read(source, &bytes, subject, &place).await? {
                // One artifact may be listed in two places.
                if !found.iter().any(|known| Signature { found: known.found.clone(), ..signature.clone() } == *known) {
                    found.push(signature);
                }
            }
        }
    }
    Ok(found)
}

/// Manifests that are attached, each with where it was found.
async fn attached(source: &Source<'_>, subject: &Digest) -> Result<Vec<(Vec<u8>, String)>, Failure> {
    let tag = format!("sha256-{}", subject.hex());
    let mut manifests = Vec::new();
    for (list, place) in
        [(source.referrers(subject, MAX_BYTES).await?, "referrers"), (source.tagged(&tag, MAX_BYTES).await?, &*tag)]
    {
        let Some(list) = list else { continue };
        // Not a list: that tag is free to hold something else.
        let Ok(Document::Index(entries)) = manifest::read(&list) else { continue };
        for entry in entries.iter().take(MAX_REFERRERS).filter(|entry| entry.descriptor.size <= MAX_BYTES) {
            let bytes = match source.manifest(&entry.descriptor, MAX_BYTES).await {
                Ok(bytes) => bytes,
                // The list outlives what it lists where old signatures are deleted.
                Err(Failure::Refused(reason)) => {
                    tracing::warn!(digest = %entry.descriptor.digest, reason, "a listed signature cannot be read");
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if Digest::of(&bytes) == entry.descriptor.digest {
                manifests.push((bytes, place.to_owned()));
            }
        }
    }
    let old = format!("{tag}.sig");
    if let Some(bytes) = source.tagged(&old, MAX_BYTES).await? {
        manifests.push((bytes, old));
    }
    Ok(manifests)
}

/// The signatures in one attached manifest; none when it is something else. The media types of the layers tell: registries
/// and tools disagree on `artifactType`.
async fn read(source: &Source<'_>, manifest: &[u8], subject: &Digest, found: &str) -> Result<Vec<Signature>, Failure> {
    let text: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let of_notation = text["artifactType"] == NOTATION || text["config"]["mediaType"] == NOTATION;
    let digest = Digest::of(manifest).to_string();
    let mut signatures = Vec::new();
    for layer in text["layers"].as_array().into_iter().flatten() {
        let Ok(blob) = serde_json::from_value::<Descriptor>(layer.clone()) else { continue };
        let kind = match blob.media_type.as_str() {
            COSIGN_PAYLOAD => SignatureKind::Cosign,
            bundle if bundle.starts_with(SIGSTORE_BUNDLE) => SignatureKind::SigstoreBundle,
            _ if of_notation => SignatureKind::Notation,
            _ => continue,
        };
        if blob.size > MAX_BYTES || signatures.len() >= MAX_REFERRERS {
            continue;
        }
        let content = source.small_blob(&blob).await?;
        let claim = match kind {
            SignatureKind::Cosign => cosign(&content, layer),
            SignatureKind::SigstoreBundle => bundle(&content),
            SignatureKind::Notation => notation(&content, &text),
        };
        let (digest, subject, found) = (digest.clone(), subject.to_string(), found.to_owned());
        let Claim { signs, key, statement } = claim;
        signatures.push(Signature { kind, digest, subject, signs, key, statement, found });
    }
    Ok(signatures)
}

/// What a signature says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claim {
    signs: Option<String>,
    key: Option<String>,
    statement: Option<String>,
}

fn cosign(payload: &[u8], layer: &Value) -> Claim {
    let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
    let certificate = layer["annotations"][COSIGN_CERTIFICATE].is_string();
    Claim {
        signs: text(&payload["critical"]["image"]["docker-manifest-digest"]),
        key: certificate.then(|| "a certificate".to_owned()),
        statement: None,
    }
}

fn bundle(content: &[u8]) -> Claim {
    let bundle: Value = serde_json::from_slice(content).unwrap_or_default();
    let material = &bundle["verificationMaterial"];
    let certificate = material.get("certificate").or_else(|| material.get("x509CertificateChain")).is_some();
    let key =
        text(&material["publicKey"]["hint"]).filter(|hint| !hint.is_empty()).map(|hint| format!("the key {hint}"));
    let statement = decoded(&bundle["dsseEnvelope"]["payload"]);
    let of_statement = || Some(format!("sha256:{}", text(&statement["subject"][0]["digest"]["sha256"])?));
    let of_message = || {
        let digest = bundle["messageSignature"]["messageDigest"]["digest"].as_str()?;
        let hex = BASE64.decode(digest).ok()?.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(format!("sha256:{hex}"))
    };
    Claim {
        signs: of_statement().or_else(of_message),
        key: key.or_else(|| certificate.then(|| "a certificate".to_owned())),
        statement: text(&statement["predicateType"]),
    }
}

fn notation(content: &[u8], manifest: &Value) -> Claim {
    // COSE is binary; the thumbprints stand in the manifest for both forms.
    let envelope: Value = serde_json::from_slice(content).unwrap_or_default();
    let thumbprints = text(&manifest["annotations"][NOTATION_THUMBPRINTS]);
    let first = thumbprints.and_then(|list| text(&serde_json::from_str::<Value>(&list).ok()?[0]));
    Claim {
        signs: text(&decoded(&envelope["payload"])["targetArtifact"]["digest"]),
        key: first.map(|thumbprint| format!("the certificate {thumbprint}")),
        statement: None,
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// JSON in base64, of either alphabet: envelopes use the plain one, JWS that for URLs without padding.
fn decoded(value: &Value) -> Value {
    let plain = value.as_str().unwrap_or_default().replace('-', "+").replace('_', "/");
    BASE64.decode(plain).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn base64(value: &Value) -> String {
        BASE64.encode(value.to_string())
    }

    #[test]
    fn a_bundle_says_what_it_signs_and_with_which_key() {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "subject": [{ "name": "", "digest": { "sha256": "ab12" } }],
        });
        let envelope = json!({ "payload": base64(&statement), "payloadType": "application/vnd.in-toto+json" });
        let with = |material: Value| json!({ "verificationMaterial": material, "dsseEnvelope": envelope }).to_string();
        let by_key = bundle(with(json!({ "publicKey": { "hint": "oD3=" } })).as_bytes());
        assert_eq!((by_key.signs.as_deref(), by_key.key.as_deref()), (Some("sha256:ab12"), Some("the key oD3=")));
        assert_eq!(by_key.statement.as_deref(), Some("https://sigstore.dev/cosign/sign/v1"));
        let keyless = bundle(with(json!({ "certificate": { "rawBytes": "" } })).as_bytes());
        assert_eq!(keyless.key.as_deref(), Some("a certificate"));
        let message = json!({ "messageSignature": { "messageDigest": { "digest": BASE64.encode([0xab, 0x12]) } } });
        assert_eq!(bundle(message.to_string().as_bytes()).signs.as_deref(), Some("sha256:ab12"));
    }

    #[test]
    fn notations_envelope_says_what_it_signs() {
        let payload =
            base64(&json!({ "targetArtifact": { "digest": "sha256:ab?>" } })).replace('+', "-").replace('/', "_");
        let envelope = json!({ "payload": payload.trim_end_matches('='), "protected": "", "signature": "" });
        let manifest = json!({ "annotations": { NOTATION_THUMBPRINTS: "[\"1f2e\",\"3d\"]" } });
        let claim = notation(envelope.to_string().as_bytes(), &manifest);
        assert_eq!((claim.signs.as_deref(), claim.key.as_deref()), (Some("sha256:ab?>"), Some("the certificate 1f2e")));
        assert_eq!(notation(b"\xd2\x84COSE", &json!({})), Claim::default());
    }

    proptest::proptest! {
        #[test]
        fn no_content_makes_it_panic(content in proptest::collection::vec(0_u8.., 0..200), word in "[\"a-z{}\\[\\]:,0]{0,80}") {
            let odd: Value = serde_json::from_str(&word).unwrap_or_default();
            for content in [&content[..], word.as_bytes()] {
                let _ = (bundle(content), notation(content, &odd), cosign(content, &odd));
            }
        }
    }
}
