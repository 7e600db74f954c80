//! `marram module push`: a component file becomes an artifact in a registry or in an image-layout folder.

use std::{path::Path, sync::Arc};

use serde_json::json;

use crate::{
    access,
    args::{Format, Push},
    componentize::adapt_for_push,
    failure::{Code, Failure},
    output, progress,
};

pub(crate) fn push(args: Push) -> Result<(), Failure> {
    // A push reads and writes no cache; the folder is not made.
    let registry = access::open(&args.access, &args.reference, Path::new("/nonexistent"))?;
    let adapted = adapt_for_push(&args.file)?;
    let file = adapted.as_ref().map_or(&args.file, |adapted| &adapted.file);
    let pushed = access::wait(async {
        let progress = Arc::default();
        let push = registry.push_watched(file, &args.reference, &[], args.created.as_deref(), &progress);
        let pushed = progress::shown("pushing", &progress, push).await;
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
                "adapter": adapted.as_ref().map(|adapted| &adapted.adapter),
            });
            format!("{document}\n")
        }
    })
}
