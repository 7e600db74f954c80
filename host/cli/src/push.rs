//! `marram module push`: a component file becomes an artifact in a registry or in an image-layout folder.

use std::path::Path;

use serde_json::json;

use crate::{
    access,
    args::{Format, Push},
    failure::{Code, Failure},
    output,
};

pub(crate) fn push(args: Push) -> Result<(), Failure> {
    // A push reads and writes no cache; the folder is not made.
    let registry = access::open(&args.access, &args.reference, Path::new("/nonexistent"))?;
    let pushed = access::wait(async {
        let pushed = registry.push(&args.file, &args.reference, &[], args.created.as_deref()).await;
        pushed.map_err(|error| Failure::new(Code::Failed, error.to_string()))
    })?;
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
