//! Where `marram.toml` and the data folder are: arguments first, then the environment, then the customs of the system.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use marram_core::manifest::Finding;

use super::{Config, Password, Way, file};
use crate::{
    args::Place,
    failure::{Code, Failure, count},
    input::read_bounded,
};

/// Largest `marram.toml`.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What the environment says about folders; relative and empty ones count as absent, as the XDG specification asks.
#[derive(Debug, Clone, Default)]
struct Environment {
    root: bool,
    home: Option<PathBuf>,
    config_home: Option<PathBuf>,
    state_home: Option<PathBuf>,
}

impl Environment {
    fn here() -> Self {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: rustix::process::geteuid().is_root(),
            home: folder("HOME"),
            config_home: folder("XDG_CONFIG_HOME"),
            state_home: folder("XDG_STATE_HOME"),
        }
    }

    fn config_files(&self) -> Vec<PathBuf> {
        let user = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        let folders = user.map(|folder| folder.join("marram")).into_iter().chain([PathBuf::from("/etc/marram")]);
        folders.map(|folder| folder.join("marram.toml")).collect()
    }

    fn data_folder(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/var/lib/marram".into());
        }
        let state = self.state_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(state.join("marram"))
    }
}

/// Reads the settings: the named file, which must exist, or the first of the customary ones that does.
pub(crate) fn load(named: Option<&Path>) -> Result<Config, Failure> {
    if let Some(path) = named {
        let missing = || {
            Failure::new(Code::Failed, format!("cannot read {}: there is no such file", path.display()))
                .hint("--config or MARRAM_CONFIG names it")
        };
        return load_file(path)?.ok_or_else(missing);
    }
    for path in Environment::here().config_files() {
        if let Some(config) = load_file(&path)? {
            return Ok(config);
        }
    }
    Ok(Config::default())
}

fn load_file(path: &Path) -> Result<Option<Config>, Failure> {
    let bytes = match read_bounded(path, MAX_CONFIG_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(Code::Failed, format!("cannot read {}: {error}", path.display()))),
    };
    let bad = |faults: Vec<Finding>| {
        let message = format!("{} has {}", path.display(), count(faults.len(), "fault"));
        Failure { faults, ..Failure::new(Code::BadConfig, message) }
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| bad(vec![Finding { at: String::new(), message: "it is not UTF-8".into(), hint: None }]))?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut config = file::read(&text, absolute.parent().unwrap_or(Path::new("/"))).map_err(bad)?;
    config.warnings = open_secrets(&config, path);
    config.file = Some(absolute);
    Ok(Some(config))
}

/// Files with passwords that others may read.
fn open_secrets(config: &Config, own: &Path) -> Vec<Finding> {
    let passwords = config.registries.credentials.iter().map(|credential| match &credential.password {
        Password::Text(_) => own,
        Password::File(path) => path,
    });
    let through = match &config.registries.proxy {
        Some(Way::Through(proxy)) if proxy.has_password() => Some(own),
        _ => None,
    };
    let others = config.registries.docker_config.as_deref().into_iter().chain(through);
    let mut files: Vec<&Path> = passwords.chain(others).filter(|path| !private_to_owner(path)).collect();
    files.sort_unstable();
    files.dedup();
    let warn = |path: &Path| Finding {
        at: path.display().to_string(),
        message: "holds a password and may be read by other users".into(),
        hint: Some(format!("chmod 600 {}", path.display())),
    };
    files.into_iter().map(warn).collect()
}

/// Nobody but the owner may read or write it; true for what is not there. A service's files are root's, and its group
/// may read them.
fn private_to_owner(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |meta| {
        let own_group = meta.uid() == 0 && meta.gid() != 0 && meta.gid() == rustix::process::getegid().as_raw();
        match meta.permissions().mode() & 0o077 {
            0 => true,
            mode => mode == 0o040 && own_group,
        }
    })
}

/// Docker's configuration file of this user, as Docker's command line finds it; none when there is no such file.
pub(crate) fn docker_config_of_user() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")))?;
    Some(folder.join("config.json")).filter(|file| file.exists())
}

/// The data folder, absolute. Without `config`, the settings are read if the arguments do not name the folder.
pub(crate) fn data_folder(place: &Place, config: Option<&Config>) -> Result<PathBuf, Failure> {
    let set = match (&place.data, config) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(config)) => config.data.clone(),
        (None, None) => load(place.config.as_deref())?.data,
    };
    let folder = set.or_else(|| Environment::here().data_folder()).ok_or_else(|| {
        Failure::new(Code::Failed, "no data folder: neither --data, MARRAM_DATA, `data` in marram.toml nor HOME is set")
    })?;
    std::path::absolute(&folder)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot use {} as data folder: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_PASSWORD: &str = "[[registries.credentials]]\naddress = 'r.example'\nusername = 'u'\npassword = 'p'\n";

    #[test]
    fn a_user_and_root_have_the_customary_folders() {
        let user = Environment { home: Some("/home/u".into()), ..Environment::default() };
        assert_eq!(user.data_folder(), Some("/home/u/.local/state/marram".into()));
        let files = [PathBuf::from("/home/u/.config/marram/marram.toml"), "/etc/marram/marram.toml".into()];
        assert_eq!(user.config_files(), files);
        let moved = Environment { state_home: Some("/s".into()), config_home: Some("/c".into()), ..user.clone() };
        assert_eq!(moved.data_folder(), Some("/s/marram".into()));
        assert_eq!(moved.config_files()[0], PathBuf::from("/c/marram/marram.toml"));
        assert_eq!(Environment { root: true, ..user }.data_folder(), Some("/var/lib/marram".into()));
        assert_eq!(Environment::default().data_folder(), None);
    }

    #[test]
    fn a_password_that_others_may_read_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marram.toml");
        std::fs::write(&path, WITH_PASSWORD).unwrap();
        let warnings = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            load(Some(&path)).unwrap().warnings
        };
        assert_eq!(warnings(0o600), []);
        assert!(warnings(0o640)[0].message.contains("other users"));
    }

    #[test]
    fn a_password_file_is_read_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("word"), "secret\n").unwrap();
        let path = folder.path().join("marram.toml");
        std::fs::write(&path, WITH_PASSWORD.replace("password = 'p'", "password-file = 'word'")).unwrap();
        let settings = load(Some(&path)).unwrap().registry(Path::new("/nowhere")).unwrap();
        assert_eq!(settings.credentials[0].password, "secret");
    }

    #[test]
    fn a_named_file_must_exist() {
        let failure = load(Some(Path::new("/does/not/exist.toml"))).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.message.contains("/does/not/exist.toml"));
    }
}
