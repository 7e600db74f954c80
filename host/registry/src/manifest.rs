//! OCI manifests and indexes as others write them: which blob is the component, or why none is.
//!
//! Liberal in what it takes (`wkg`, wash, Spin, oras, skopeo and older tools differ), but it never guesses: the first
//! bytes of the blob decide, and they are looked at elsewhere.

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, failure::Failure};

pub(crate) const MEDIA_TYPE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const MEDIA_TYPE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Config of the CNCF layout for WebAssembly.
pub(crate) const MEDIA_TYPE_WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Layer of the CNCF layout for WebAssembly.
pub(crate) const MEDIA_TYPE_WASM: &str = "application/wasm";
const MEDIA_TYPE_DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONTAINER_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// All that a registry may send; Docker's types so that a container image can be named as what it is.
pub(crate) const ACCEPTED_MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
/// `platform.architecture` and `architecture` of components and modules.
const WASM_ARCHITECTURES: [&str; 3] = ["wasm", "wasm32", "wasm64"];

/// Names a blob or a manifest by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
}

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Entry {
    fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref()
    }
}

impl Platform {
    fn is_wasm(&self) -> bool {
        is_wasm_architecture(&self.architecture)
    }
}

/// A document that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One artifact.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Vec<Entry>),
}

/// One artifact: what it says about itself, and its blobs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Entry>>,
}

/// Reads a manifest or an index.
pub(crate) fn read(bytes: &[u8]) -> Result<Document, Failure> {
    let written: Written =
        serde_json::from_slice(bytes).map_err(|err| Failure::refused(format!("its manifest cannot be read: {err}")))?;
    if written.schema_version != 2 {
        let version = written.schema_version;
        return Err(Failure::refused(format!("its manifest has schema version {version}; only 2 is supported")));
    }
    let is_index = matches!(written.media_type.as_str(), MEDIA_TYPE_INDEX | MEDIA_TYPE_DOCKER_INDEX);
    match (written.config, written.layers, written.manifests) {
        (Some(config), Some(layers), None) if !is_index => Ok(Document::Manifest(Manifest { config, layers })),
        (None, None, Some(entries)) => Ok(Document::Index(entries)),
        // One text that reads as two things is an old attack on caches (CVE-2021-41190).
        _ => Err(Failure::refused("its manifest is neither clearly an image manifest nor clearly an index")),
    }
}

/// The entry of an index that holds the component.
pub(crate) fn choose(entries: &[Entry]) -> Result<&Descriptor, Failure> {
    let wasm: Vec<&Entry> = entries.iter().filter(|entry| entry.platform().is_some_and(Platform::is_wasm)).collect();
    let is_component = |entry: &&Entry| entry.platform().is_some_and(|platform| platform.os == "wasip2");
    let components: Vec<&Entry> = wasm.iter().copied().filter(is_component).collect();
    match (wasm.as_slice(), components.as_slice(), entries) {
        ([only], _, _) | (_, [only], _) => Ok(&only.descriptor),
        ([], _, [only]) => Ok(&only.descriptor),
        ([], _, []) => Err(Failure::refused("it is an index without an entry")),
        ([], _, _) => Err(Failure::refused(format!(
            "it is an index of {} without an entry for wasm: probably a container image",
            platforms(entries.iter())
        ))),
        _ => Err(Failure::refused(format!(
            "it is an index with several entries for wasm ({}); name one by its digest",
            platforms(wasm.into_iter())
        ))),
    }
}

fn platforms<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let text = |entry: &Entry| match &entry.platform {
        Some(platform) => format!("{}/{}", platform.os, platform.architecture),
        None => "no platform".to_owned(),
    };
    entries.take(8).map(text).collect::<Vec<_>>().join(", ")
}

fn is_wasm_architecture(text: &str) -> bool {
    WASM_ARCHITECTURES.contains(&text)
}

impl Manifest {
    /// Refuses a container image. `config` is the verified config blob.
    pub(crate) fn refuse_container(&self, config: &[u8]) -> Result<(), Failure> {
        if !CONTAINER_CONFIGS.contains(&self.config.media_type.as_str()) {
            return Ok(());
        }
        // Spin, oras and others put components under a container's config type. What such a config says decides.
        let config: ContainerConfig = serde_json::from_slice(config).unwrap_or_default();
        let foreign = !config.architecture.is_empty() && !is_wasm_architecture(&config.architecture);
        let unpacks = config.architecture.is_empty() && config.rootfs.is_some_and(|fs| !fs.diff_ids.is_empty());
        if foreign || unpacks {
            let platform = format!("{}/{}", or_unknown(&config.os), or_unknown(&config.architecture));
            return Err(Failure::refused(format!(
                "it is a container image ({platform}), not a WebAssembly component; Marram runs components only: build \
                 the module for wasm32-wasip2 and push it with `marram module push`"
            )));
        }
        Ok(())
    }

    /// The one layer, with its size checked.
    pub(crate) fn component(&self, max_bytes: u64) -> Result<&Descriptor, Failure> {
        match self.layers.as_slice() {
            [] => Err(Failure::refused("it has no layer, so no component")),
            [layer] if layer.size > max_bytes => Err(Failure::refused(format!(
                "its component has {} bytes; this device takes at most {max_bytes} (`registries.max-component-bytes`)",
                layer.size
            ))),
            [layer] => Ok(layer),
            layers => {
                let types: Vec<&str> = layers.iter().take(4).map(|layer| layer.media_type.as_str()).collect();
                Err(Failure::refused(format!(
                    "it has {} layers ({}…); a component artifact has exactly one",
                    layers.len(),
                    types.join(", ")
                )))
            }
        }
    }
}

#[derive(Default, Deserialize)]
struct ContainerConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<serde_json::Value>,
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()).to_string(), "size": 10})
    }

    fn entry(os: &str, architecture: &str) -> Value {
        let mut entry = descriptor(&format!("{os}/{architecture}"));
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    }

    fn chosen(entries: &[Value]) -> Result<String, String> {
        let entries: Vec<Entry> = serde_json::from_value(json!(entries)).unwrap();
        choose(&entries).map(|d| d.media_type.clone()).map_err(|err| err.to_string())
    }

    fn manifest(config: &str, layers: &[&str]) -> Manifest {
        let layers: Vec<Value> = layers.iter().map(|media_type| descriptor(media_type)).collect();
        let text = json!({"schemaVersion": 2, "config": descriptor(config), "layers": layers}).to_string();
        match read(text.as_bytes()).unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!("{text}"),
        }
    }

    #[test]
    fn of_an_index_the_entry_for_wasm_is_taken() {
        assert_eq!(chosen(&[entry("linux", "amd64"), entry("wasi", "wasm")]).unwrap(), "wasi/wasm");
        assert_eq!(chosen(&[entry("wasip1", "wasm"), entry("wasip2", "wasm")]).unwrap(), "wasip2/wasm");
        assert_eq!(chosen(&[descriptor("only")]).unwrap(), "only");
    }

    #[test]
    fn an_index_without_one_clear_entry_is_refused() {
        let err = chosen(&[entry("linux", "amd64"), entry("linux", "arm64")]).unwrap_err();
        assert!(err.contains("linux/amd64, linux/arm64") && err.contains("container image"), "{err}");
        assert!(chosen(&[]).is_err());
        assert!(chosen(&[entry("a", "wasm"), entry("b", "wasm")]).unwrap_err().contains("by its digest"));
    }

    #[test]
    fn a_text_that_reads_as_manifest_and_index_is_refused() {
        let both = json!({"schemaVersion": 2, "config": descriptor("c"), "layers": [], "manifests": []});
        let index_type =
            json!({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "config": descriptor("c"), "layers": []});
        for text in [both.to_string(), index_type.to_string(), json!({"schemaVersion": 2}).to_string()] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["", "[]", "{\"schemaVersion\":1}", "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"x\"}]}"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_config_decides_by_what_it_says() {
        let container = manifest(CONTAINER_CONFIGS[0], &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        let err = container.refuse_container(br#"{"architecture":"arm64","os":"linux"}"#).unwrap_err().to_string();
        assert!(err.contains("container image (linux/arm64)"), "{err}");
        assert!(container.refuse_container(br#"{"rootfs":{"diff_ids":["sha256:1"]}}"#).is_err());
        assert!(container.refuse_container(br#"{"architecture":"wasm","os":"wasi"}"#).is_ok(), "Spin and wasi/wasm");
        assert!(container.refuse_container(b"{}").is_ok(), "oras");
        assert!(manifest(MEDIA_TYPE_WASM_CONFIG, &[MEDIA_TYPE_WASM]).refuse_container(b"{}").is_ok());
    }

    #[test]
    fn a_component_is_the_one_layer_within_the_size() {
        assert_eq!(manifest("any", &["x/y"]).component(10).unwrap().media_type, "x/y");
        assert!(manifest("any", &["x/y"]).component(9).unwrap_err().to_string().contains("max-component-bytes"));
        assert!(manifest("any", &[]).component(10).is_err());
        assert!(manifest("any", &["a", "b"]).component(10).unwrap_err().to_string().contains("2 layers (a, b"));
    }
}
