//! `marram module push`: a component file becomes an artifact in a registry or in an image-layout folder.

use std::path::Path;

use marram_core::deployment::RegistryCredential;
use marram_registry::{Image, Registry};
use serde_json::json;

use crate::{
    args::{Format, Push},
    config,
    failure::{Code, Failure, finding_lines},
    input, output,
};

pub(crate) fn push(args: Push) -> Result<(), Failure> {
    let config = config::load(args.config.as_deref())?;
    config.warnings.iter().for_each(|warning| output::talk(&finding_lines("warning: ", warning)));
    // A push reads and writes no cache; the folder is not made.
    let mut settings = config.registry(Path::new("/nonexistent"))?;
    let target = registry_of(&args.reference, config.registries.default.as_deref())?;
    if let (true, Some(registry)) = (args.plain_http, &target) {
        settings.plain_http.push(registry.clone());
    }
    if let Some(username) = &args.username {
        let address = target.ok_or_else(|| {
            Failure::new(Code::Usage, format!("--username: `{}` is not in a registry", args.reference))
        })?;
        // Those of marram.toml would come first.
        settings.credentials = vec![RegistryCredential { address, username: username.clone(), password: password()? }];
    }
    let registry = Registry::new(settings).map_err(|error| Failure::failed(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("cannot start: {error}")))?;
    let pushed = runtime
        .block_on(registry.push(&args.file, &args.reference, &[], args.created.as_deref()))
        .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
    let reference = format!("{}@{}", pushed.image, pushed.manifest_digest);
    output::data(&match args.format {
        Format::Text => format!("{reference}\n"),
        Format::Json => {
            let document = json!({
                "reference": reference,
                "image": pushed.image,
                "manifestDigest": pushed.manifest_digest,
                "componentDigest": pushed.component_digest,
                "size": pushed.size,
            });
            format!("{document}\n")
        }
    })
}

/// `host[:port]` of the registry that the reference means; none for a layout.
fn registry_of(reference: &str, default: Option<&str>) -> Result<Option<String>, Failure> {
    let image =
        Image::parse(reference).map_err(|error| Failure::new(Code::Usage, format!("image `{reference}`: {error}")))?;
    Ok(match image {
        Image::Remote(image) => image.registry().map(ToString::to_string).or_else(|| default.map(str::to_owned)),
        Image::Layout(_) => None,
    })
}

fn password() -> Result<String, Failure> {
    let text = input::text(Path::new("-"))?;
    let word = text.trim_end_matches(['\r', '\n']);
    if word.is_empty() {
        return Err(Failure::new(Code::Usage, "--password-stdin: standard input is empty"));
    }
    Ok(word.to_owned())
}
