//! Debian's `docker-registry`, on a free loopback port with a temporary folder. Ends when dropped.
//!
//! Stock on purpose: what it accepts, others accept. It is never mocked.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The one user of a registry with [`Options::password`].
pub const USER: &str = "device";
/// Its password.
pub const PASSWORD: &str = "correct-horse";
/// Both as a line of `htpasswd -B` at its lowest cost; a public example, not a secret.
const HTPASSWD: &str = "device:$2y$04$RHHQDZjeB2XPuXqfFIVwauDQONyoQ.wf9uFoJI5r/X7RwrBGlAOKa\n";

const PROGRAM: &str = "docker-registry";
/// Longest start that is waited for; it takes a tenth of a second on an idle machine.
const START_TIME: Duration = Duration::from_secs(60);
/// Pause between two looks at a starting registry.
const LOOK: Duration = Duration::from_millis(20);

/// How a registry is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lets in only [`USER`] with [`PASSWORD`].
    pub password: bool,
    /// Certificate and key, PEM files: HTTPS instead of plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Address to listen on; default `127.0.0.1`.
    pub host: Option<String>,
}

/// A running registry.
pub struct DockerRegistry {
    child: Option<Child>,
    options: Options,
    address: SocketAddr,
    folder: TempDir,
}

impl DockerRegistry {
    /// Starts one that lets anybody in.
    ///
    /// # Panics
    /// `docker-registry` is not installed, or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts one with basic authentication: [`USER`] and [`PASSWORD`].
    ///
    /// # Panics
    /// As [`DockerRegistry::start`].
    #[must_use]
    pub fn start_with_password() -> Self {
        Self::start_with(Options { password: true, ..Options::default() })
    }

    /// Starts one as described.
    ///
    /// # Panics
    /// As [`DockerRegistry::start`].
    #[must_use]
    pub fn start_with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|err| panic!("no temporary folder: {err}"));
        // It chooses a free port itself and says which: nobody else can take it in between.
        let host = options.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        let (child, address) = spawn(folder.path(), &options, &format!("{host}:0"));
        Self { child: Some(child), options, address, folder }
    }

    /// `host:port`, as in an image reference.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.options.host {
            Some(host) => format!("{host}:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }

    /// `host:port/name`, an image reference.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// The file of a blob or manifest (`sha256:…`) on the registry's disk; it may not exist.
    #[must_use]
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let place = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        self.folder.path().join("storage").join(place)
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(self.folder.path())
    }

    /// Stops it; what it holds stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port after [`DockerRegistry::stop`].
    ///
    /// # Panics
    /// It does not start: somebody else may have the port now.
    pub fn restart(&mut self) {
        self.stop();
        let (child, address) = spawn(self.folder.path(), &self.options, &self.address());
        self.child = Some(child);
        self.address = address;
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(folder: &Path, options: &Options, listen: &str) -> (Child, SocketAddr) {
    let config = folder.join("config.yml");
    write(&config, &config_text(folder, options, listen));
    write(&folder.join("htpasswd"), HTPASSWD);
    let log = File::create(folder.join("log")).unwrap_or_else(|err| panic!("cannot write the registry's log: {err}"));
    let mut command = Command::new(program());
    // OTEL_…: newer versions would look for a collector.
    command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::null());
    let child = command.stdout(Stdio::null()).stderr(log).spawn();
    let mut child = child.unwrap_or_else(|err| {
        panic!("cannot start `{PROGRAM}` ({err}); run `cargo xtask setup`, which installs what the tests need")
    });
    let deadline = Instant::now() + START_TIME;
    loop {
        if let Some(address) = listening(&read_log(folder)).filter(|address| TcpStream::connect(address).is_ok()) {
            return (child, address);
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`{PROGRAM}` did not start ({ended:?}):\n{}", read_log(folder));
        }
        std::thread::sleep(LOOK);
    }
}

/// The program on the path, or where `cargo xtask setup` puts it.
fn program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin").join(PROGRAM);
    if installed.exists() { installed } else { PROGRAM.into() }
}

fn config_text(folder: &Path, options: &Options, listen: &str) -> String {
    let folder = folder.display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: \
         {folder}/storage\n  delete:\n    enabled: true\nhttp:\n  addr: {listen}\n  secret: only-for-tests\n"
    );
    if let Some((certificate, key)) = &options.tls {
        text += &format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
    }
    if options.password {
        text += &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n");
    }
    text
}

/// The address in the line `msg="listening on ADDRESS"` (with `, tls` after it for HTTPS).
fn listening(log: &str) -> Option<SocketAddr> {
    let after = log.split("listening on ").nth(1)?;
    let address = after.split(['"', ',', ' ', '\n']).next()?;
    // A wildcard address is written `[::]`.
    let port = address.rsplit(':').next()?.parse().ok()?;
    address.parse::<SocketAddr>().ok().filter(|a| !a.ip().is_unspecified()).or(Some(([127, 0, 0, 1], port).into()))
}

fn read_log(folder: &Path) -> String {
    String::from_utf8_lossy(&fs::read(folder.join("log")).unwrap_or_default()).into_owned()
}

fn write(path: &Path, text: &str) {
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|err| panic!("cannot write {}: {err}", path.display()));
}
