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
/// Layers that hold one WebAssembly binary: CNCF layout, Spin and `wasm-to-oci`, older wasmCloud.
const WASM_LAYERS: [&str; 3] = [
    MEDIA_TYPE_WASM,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
/// Docker buildx puts this on entries of an index that are about another entry: provenance, lists of contents.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Most layers whose first bytes are looked at. Artifacts have a handful; more are packages of something else.
const MAX_LAYERS: usize = 16;
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
    #[serde(default)]
    annotations: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Entry {
    fn is_wasm(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| is_wasm_architecture(&platform.architecture))
    }

    fn is_wasip2(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "wasip2")
    }

    /// It says nothing of a platform.
    fn is_open(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| platform.architecture.is_empty() && platform.os.is_empty())
    }

    /// It is about another entry, or for no platform that anybody knows: never what runs.
    fn is_aside(&self) -> bool {
        let unknown = |platform: &Platform| platform.architecture == "unknown" || platform.os == "unknown";
        self.platform.as_ref().is_some_and(unknown) || self.annotations[REFERENCE_TYPE].is_string()
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

/// The entry of an index that leads to the component; it may be an index again.
pub(crate) fn choose(entries: &[Entry]) -> Result<&Descriptor, Failure> {
    let entries: Vec<&Entry> = entries.iter().filter(|entry| !entry.is_aside()).collect();
    let only = |wanted: fn(&Entry) -> bool| match entries.iter().filter(|entry| wanted(entry)).collect::<Vec<_>>()[..] {
        [only] => Some(&only.descriptor),
        _ => None,
    };
    let wasm: Vec<&Entry> = entries.iter().copied().filter(|entry| entry.is_wasm()).collect();
    if !wasm.is_empty() {
        return only(Entry::is_wasm).or_else(|| only(|entry| entry.is_wasm() && entry.is_wasip2())).ok_or_else(|| {
            Failure::refused(format!(
                "it is an index with several entries for wasm ({}); name one by its digest",
                platforms(&wasm)
            ))
        });
    }
    // An only entry says itself what it is, if need be that it is a container image.
    match (entries.as_slice(), only(Entry::is_open)) {
        ([only], _) => Ok(&only.descriptor),
        (_, Some(only)) => Ok(only),
        ([], None) => Err(Failure::refused("it is an index without an entry to run")),
        (_, None) if entries.iter().any(|entry| entry.is_open()) => Err(Failure::refused(format!(
            "it is an index with several entries that name no platform ({}); name one by its digest",
            platforms(&entries)
        ))),
        _ => Err(Failure::refused(format!(
            "it is an index of {} without an entry for wasm: probably a container image",
            platforms(&entries)
        ))),
    }
}

fn platforms(entries: &[&Entry]) -> String {
    let text = |entry: &&Entry| match &entry.platform {
        Some(platform) => format!("{}/{}", platform.os, platform.architecture),
        None => "no platform".to_owned(),
    };
    entries.iter().take(8).map(text).collect::<Vec<_>>().join(", ")
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

    /// Which layer is the component, as far as the manifest tells. Layers that only their media type tells apart from a
    /// component are not believed here either: the first bytes of what is fetched decide.
    pub(crate) fn component(&self) -> Result<Choice<'_>, Failure> {
        let of_wasm = self.layers.iter().filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str()));
        match (self.layers.as_slice(), of_wasm.collect::<Vec<_>>().as_slice()) {
            ([], _) => Err(Failure::refused("it has no layer, so no component")),
            ([only], _) => Ok(Choice::Layer(only)),
            // The layout says so: a second layer has a meaning that we do not know.
            _ if self.config.media_type == MEDIA_TYPE_WASM_CONFIG => Err(self.several("has exactly one")),
            (_, [only]) => Ok(Choice::Layer(only)),
            (layers, []) if layers.len() <= MAX_LAYERS => Ok(Choice::Look(layers)),
            (_, []) => Err(self.several("has one")),
            _ => Err(self.several("has one that is WebAssembly")),
        }
    }

    /// The component among layers of which the manifest does not tell what they are: `is_component` is what their first
    /// bytes say, in their order.
    pub(crate) fn component_among(&self, is_component: &[bool]) -> Result<&Descriptor, Failure> {
        match self.layers.iter().zip(is_component).filter(|(_, is)| **is).collect::<Vec<_>>()[..] {
            [(only, _)] => Ok(only),
            [] => Err(self.several("has one that is a component, and none of these is")),
            _ => Err(self.several("has one that is a component, and several of these are")),
        }
    }

    fn several(&self, rule: &str) -> Failure {
        let types: Vec<&str> = self.layers.iter().take(4).map(|layer| layer.media_type.as_str()).collect();
        let more = if self.layers.len() > types.len() { ", …" } else { "" };
        let (count, types) = (self.layers.len(), types.join(", "));
        Failure::refused(format!("it has {count} layers ({types}{more}); an artifact that can be run {rule}"))
    }
}

/// Which layer is the component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// This one, or none.
    Layer(&'a Descriptor),
    /// One of these; their first bytes tell ([`Manifest::component_among`]).
    Look(&'a [Descriptor]),
}

impl Descriptor {
    /// Refuses a component that is larger than this device takes.
    pub(crate) fn within(&self, max_bytes: u64) -> Result<&Self, Failure> {
        if self.size <= max_bytes {
            return Ok(self);
        }
        Err(Failure::refused(format!(
            "its component has {} bytes; this device takes at most {max_bytes} (`registries.max-component-bytes`)",
            self.size
        )))
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
    fn what_buildx_attests_of_an_image_does_not_disturb() {
        let mut attested = entry("unknown", "unknown");
        attested["annotations"] = json!({ REFERENCE_TYPE: "attestation-manifest" });
        let mut marked = descriptor("marked");
        marked["annotations"] = json!({ REFERENCE_TYPE: "attestation-manifest" });
        let aside = [attested, marked, entry("unknown", "unknown")];
        let with = |entries: &[Value]| chosen(&[&aside[..], entries].concat());
        assert_eq!(with(&[entry("wasi", "wasm")]).unwrap(), "wasi/wasm");
        assert_eq!(with(&[descriptor("only")]).unwrap(), "only");
        assert_eq!(with(&[entry("linux", "amd64")]).unwrap(), "linux/amd64", "which then says that it is a container");
        assert!(with(&[]).unwrap_err().contains("without an entry"));
    }

    #[test]
    fn an_entry_without_a_platform_comes_before_those_of_others() {
        assert_eq!(chosen(&[entry("linux", "amd64"), descriptor("open")]).unwrap(), "open");
        assert_eq!(chosen(&[entry("linux", "amd64"), entry("", "")]).unwrap(), "/");
        assert_eq!(chosen(&[descriptor("open"), entry("wasip2", "wasm")]).unwrap(), "wasip2/wasm");
        let err = chosen(&[descriptor("a"), descriptor("b"), entry("linux", "amd64")]).unwrap_err();
        assert!(err.contains("no platform, no platform, linux/amd64") && err.contains("by its digest"), "{err}");
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

    fn layer_of(manifest: &Manifest) -> Result<Option<&str>, String> {
        match manifest.component() {
            Ok(Choice::Layer(layer)) => Ok(Some(&layer.media_type)),
            Ok(Choice::Look(layers)) => {
                assert_eq!(layers, manifest.layers);
                Ok(None)
            }
            Err(err) => Err(err.to_string()),
        }
    }

    #[test]
    fn an_only_layer_is_the_component_whatever_its_type() {
        for config in [MEDIA_TYPE_WASM_CONFIG, "any"] {
            assert_eq!(layer_of(&manifest(config, &["x/y"])).unwrap(), Some("x/y"));
            assert!(layer_of(&manifest(config, &[])).unwrap_err().contains("no layer"));
        }
        let small = manifest("any", &["x/y"]);
        assert!(small.layers[0].within(10).is_ok());
        assert!(small.layers[0].within(9).unwrap_err().to_string().contains("max-component-bytes"));
    }

    #[test]
    fn of_several_layers_the_one_of_a_wasm_type_is_the_component() {
        for wasm in WASM_LAYERS {
            assert_eq!(layer_of(&manifest("any", &["text/plain", wasm, "a/b"])).unwrap(), Some(wasm));
            let err = layer_of(&manifest("any", &[wasm, "a/b", MEDIA_TYPE_WASM])).unwrap_err();
            assert!(err.contains("3 layers (") && err.contains("one that is WebAssembly"), "{err}");
        }
        let err = layer_of(&manifest(MEDIA_TYPE_WASM_CONFIG, &[MEDIA_TYPE_WASM, "a/b"])).unwrap_err();
        assert!(err.contains("exactly one"), "the layout's own rule: {err}");
    }

    #[test]
    fn of_several_layers_of_no_wasm_type_the_first_bytes_tell_the_component() {
        let artifact = manifest("any", &["a/b", "c/d", "e/f"]);
        assert_eq!(layer_of(&artifact).unwrap(), None);
        assert_eq!(artifact.component_among(&[false, true, false]).unwrap().media_type, "c/d");
        for unclear in [[false; 3], [true, false, true]] {
            let err = artifact.component_among(&unclear).unwrap_err().to_string();
            assert!(err.contains("3 layers (a/b, c/d, e/f)"), "{err}");
        }
        let many = vec!["a/b"; MAX_LAYERS + 1];
        assert!(layer_of(&manifest("any", &many)).unwrap_err().contains("17 layers (a/b, a/b, a/b, a/b, …)"));
    }
}
