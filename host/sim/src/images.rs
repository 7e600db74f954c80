//! Made-up images: a registry that can be away, and a compiler that refuses.

use std::{sync::Arc, time::Duration};

use marram_core::ports::{Artifact, BoxFuture, Component, Engine, FetchError, FetchRequest, Images, Lease, LoadError};

use crate::{guest::Made, time::pass, world::World};

impl Images for World {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>> {
        let image = request.image;
        Box::pin(async move {
            let fate = {
                let mut inner = self.lock();
                inner.note_of(&image, format!("fetch {image}"));
                inner.watch.prepares(&image);
                inner.fate(&image, "")
            };
            pass(Duration::from_millis(fate.fetch)).await;
            let mut inner = self.lock();
            let away = inner.away;
            // What is wrong, whether trying again may help, and what that is called.
            let failure = match () {
                () if away => Some(("unreachable", "no way to", true, "an image whose registry is away")),
                () if fate.unreachable => {
                    Some(("unreachable", "no way to", true, "an image that cannot be reached once"))
                }
                () if fate.missing => Some(("missing", "no image", false, "an image that is not there")),
                () if fate.altered => Some(("altered", "wrong digest of", false, "an image with a wrong digest")),
                () => None,
            };
            if let Some((word, message, transient, kind)) = failure {
                inner.note_of(&image, format!("{word} {image}"));
                inner.watch.cannot_be_prepared(&image);
                inner.seen.note(kind);
                return Err(FetchError { message: format!("{message} {image}"), transient });
            }
            Ok(Artifact {
                manifest_digest: format!("sha256:{image}"),
                component_digest: image,
                path: "/".into(),
                stale: false,
                lease: Lease::default(),
            })
        })
    }
}

impl Engine for World {
    fn load(&self, artifact: &Artifact, _: &str) -> BoxFuture<'_, Result<Arc<dyn Component>, LoadError>> {
        let image = artifact.component_digest.clone();
        Box::pin(async move {
            let fate = self.lock().fate(&image, "load");
            pass(Duration::from_millis(fate.load)).await;
            let mut inner = self.lock();
            if fate.refused {
                inner.note_of(&image, format!("refused {image}"));
                inner.watch.cannot_be_prepared(&image);
                inner.seen.note("a component that does not compile");
                return Err(LoadError(format!("{image} does not fit")));
            }
            inner.watch.is_prepared(&image);
            let component = Made::new(self.clone(), image, &fate);
            Ok(Arc::new(component) as Arc<dyn Component>)
        })
    }
}
