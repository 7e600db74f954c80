//! How `marram module` reaches registries and layouts: the settings of this device, a user of the command line, a folder
//! for what is fetched that goes away again. Never touches the cache of the data folder: that is a running host's.

use std::{
    fs::{self, DirBuilder},
    future::Future,
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use marram_core::{
    deployment::{PullPolicy, RegistryCredential},
    ports::{Artifact, FetchError, FetchRequest, Images as _},
};
use marram_registry::{Image, Registry};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::Access,
    config::{self, Config},
    failure::{Code, Failure, finding_lines},
    input, output, progress,
};

/// How often a name for a folder is made up: two commands that meet in one nanosecond differ by their process.
const NAMES: u32 = 8;

/// A component that was fetched into a folder of its own, which goes away with this.
pub(crate) struct Fetched {
    /// Digests and the verified file.
    pub(crate) artifact: Artifact,
    /// Pins what was fetched: `registry/repository:tag@sha256:…`.
    pub(crate) reference: String,
    /// Where the file is; nobody else may look into it.
    pub(crate) folder: Scratch,
}

/// A client for the registry or layout of `reference`, which keeps what it fetches in `cache`.
#[cfg(feature = "author")]
pub(crate) fn open(access: &Access, reference: &str, cache: &Path) -> Result<Registry, Failure> {
    client(&settings(access)?, access, &parse(reference)?, cache)
}

/// Fetches a component, every digest checked, into a new folder in `folder`.
pub(crate) fn fetch(access: &Access, reference: &str, folder: &Path) -> Result<Fetched, Failure> {
    fetch_and(access, reference, folder, async |_| Ok(())).map(|(fetched, ())| fetched)
}

/// [`fetch`], and asks the same source for more.
pub(crate) fn fetch_and<T>(
    access: &Access,
    reference: &str,
    folder: &Path,
    more: impl AsyncFnOnce(&Registry) -> Result<T, FetchError>,
) -> Result<(Fetched, T), Failure> {
    let (image, config) = (parse(reference)?, settings(access)?);
    let folder = Scratch::new(folder)?;
    let registry = client(&config, access, &image, &folder.path().join("cache"))?;
    let request = FetchRequest {
        image: reference.to_owned(),
        policy: PullPolicy::OnCreate,
        prefer_cached: false,
        credentials: Vec::new(),
        progress: Arc::default(),
        room: None,
    };
    let progress = request.progress.clone();
    let failed = |error: FetchError| Failure::new(Code::Failed, error.message);
    let (artifact, more) = wait(async {
        let artifact = progress::shown("pulling", &progress, registry.fetch(request)).await.map_err(failed)?;
        Ok((artifact, more(&registry).await.map_err(failed)?))
    })?;
    let reference = pinned(&image, config.registries.default.as_deref(), &artifact.manifest_digest);
    Ok((Fetched { artifact, reference, folder }, more))
}

/// Runs to the end, or until Ctrl-C or SIGTERM: then folders of this process go away too.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let cannot = |error: io::Error| Failure::new(Code::Failed, format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => Err(Failure::new(Code::Failed, "interrupted")),
            _ = terminate.recv() => Err(Failure::new(Code::Failed, "interrupted")),
        }
    })
}

/// Credentials are for registries only.
pub(crate) fn not_in_a_registry(reference: &str) -> Failure {
    Failure::new(Code::Usage, format!("--username: `{reference}` is not in a registry"))
}

fn settings(access: &Access) -> Result<Config, Failure> {
    let config = config::load(access.config.as_deref())?;
    config.warnings.iter().for_each(|warning| output::talk(&finding_lines("warning: ", warning, None)));
    Ok(config)
}

fn parse(reference: &str) -> Result<Image, Failure> {
    Image::parse(reference).map_err(|error| Failure::new(Code::Usage, format!("image `{reference}`: {error}")))
}

fn client(config: &Config, access: &Access, image: &Image, cache: &Path) -> Result<Registry, Failure> {
    let mut settings = config.registry(cache)?;
    let target = registry_of(image, config.registries.default.as_deref());
    if let (true, Some(registry)) = (access.plain_http, &target) {
        settings.plain_http.push(registry.clone());
    }
    // An author's own login; a host has only what its owner names.
    settings.docker_config = settings.docker_config.or_else(config::docker_config_of_user);
    if let Some(username) = &access.username {
        let address = target.ok_or_else(|| not_in_a_registry(&image.to_string()))?;
        // Those of marram.toml and of Docker would come first.
        settings.docker_config = None;
        settings.credentials = vec![RegistryCredential { address, username: username.clone(), password: password()? }];
    }
    Registry::new(settings).map_err(|error| Failure::failed(&error))
}

/// `host[:port]` of the registry that the reference means; none for a layout.
fn registry_of(image: &Image, default: Option<&str>) -> Option<String> {
    match image {
        Image::Remote(image) => image.registry().map(ToString::to_string).or_else(|| default.map(str::to_owned)),
        Image::Layout(_) => None,
    }
}

fn password() -> Result<String, Failure> {
    let text = input::text(Path::new("-"))?;
    let word = text.trim_end_matches(['\r', '\n']);
    if word.is_empty() {
        return Err(Failure::new(Code::Usage, "--password-stdin: standard input is empty"));
    }
    Ok(word.to_owned())
}

/// The reference in full, as `module push` writes it.
fn pinned(image: &Image, default: Option<&str>, manifest: &str) -> String {
    let name = match image {
        Image::Remote(remote) => {
            let registry = registry_of(image, default).map_or_else(String::new, |registry| registry + "/");
            format!("{registry}{}", remote.repository())
        }
        Image::Layout(layout) => {
            let folder = path::absolute(layout.path()).unwrap_or_else(|_| layout.path().to_owned());
            format!("oci:{}", folder.display())
        }
    };
    let tag = image.tag().map_or_else(String::new, |tag| format!(":{tag}"));
    format!("{name}{tag}@{manifest}")
}

/// A folder that only its owner may enter, and that goes away with this.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self, Failure> {
        let mut last = io::Error::from(ErrorKind::AlreadyExists);
        for _ in 0..NAMES {
            let moment = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
            let path = parent.join(format!(".marram-{}-{moment}", std::process::id()));
            // Not recursive: what is there already, even a link that someone else laid, is never used.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) => last = error,
            }
            if last.kind() != ErrorKind::AlreadyExists {
                break;
            }
        }
        Err(Failure::new(Code::Failed, format!("cannot make a folder in {}: {last}", parent.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a leftover is hidden and harmless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_reference_is_whole() {
        let pin = |text: &str| pinned(&parse(text).unwrap(), Some("r.example"), "sha256:1");
        assert_eq!(pin("filter"), "r.example/filter:latest@sha256:1");
        assert_eq!(pin("localhost:5000/a/b:2"), "localhost:5000/a/b:2@sha256:1");
        assert_eq!(pin(&format!("localhost/a@sha256:{}", "0".repeat(64))), "localhost/a@sha256:1");
        assert_eq!(pin("oci:/srv/images:a"), "oci:/srv/images:a@sha256:1");
        assert_eq!(pin("oci:/srv/images"), "oci:/srv/images@sha256:1");
    }

    #[test]
    fn a_scratch_folder_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        assert_eq!(fs::metadata(scratch.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(scratch.path().join("file"), "").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
